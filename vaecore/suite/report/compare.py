"""Comparison of two reports: what moved, by how much, and whether beyond chance.

The runs of two reports count as independent: another model, version or machine trains another chaotic run from the same
seed. Test images that both share make their estimates rise and fall together. An independent combination does not
credit that: its intervals are then wider than need be, and its false alarms rarer than 0.05 (the second table of
`reports/coverage.md`).

A claim has *moved* where the interval of its change leaves out 0. The intervals are at level 1 - 0.05/m, where m counts
the claims that have not moved at that level; it is stepped down from all claims compared, so that at most 0.05 of
comparisons show any false move (Holm 1979). Where 0 is within, *no movement was seen*: the interval says how large a
move may have been missed, and no two values are called equal. Where there is no interval, or it covers images only
while models vary between runs, the comparison *cannot tell*, unless both reports are of the same weights and images.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich import box
from rich.table import Table as Grid
from rich.text import Text

from vaecore.suite.judging.findings import FAMILY
from vaecore.suite.report.markdown.parts import literal
from vaecore.suite.report.terminal import ASCII, printed, recording
from vaecore.suite.results import number, plain
from vaecore.suite.statistics.intervals import Pick, Spread, change, family_level
from vaecore.suite.text import counted, intensity, visible
from vaecore.toolkit import digest

OLDEST_SCHEMA = 2  # of results that can be compared
MOVED, UNSEEN, UNKNOWN = "moved", "no movement seen", "cannot tell"
_BOUNDS = ("claim", "bound in A", "bound in B", "verdict")  # the head of their table
_MEASURES = {"accuracy": 3, "consistent": 3, "l2": 2, "mse": 4}  # of a condition, and the decimals shown


@dataclass(frozen=True)
class Change:
    """A claim in two reports: estimate and interval in each, and the change from A to B with its interval.

    bounds: in each, "unknown" where older results do not say. word: MOVED, UNSEEN or UNKNOWN. why: it is UNKNOWN; else
    empty.
    """

    claim: str
    estimand: str
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    verdicts: tuple[str, str]
    bounds: tuple[str, str]
    change: float
    low: float
    high: float
    word: str
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """A comparison of two reports, A and B; plain values only.

    differs: facts in which the studies differ, with both values. notes: cautions for the reader. level: of every
    interval of a change. only: claims concluded in A only, then in B only, and why not in the other. conditions: for
    each condition and measure both values. seconds: of computing in that run, and of the tasks of each stage, both
    values, None where it was not timed.
    """

    names: tuple[str, str]
    differs: dict[str, tuple[str, str]]
    notes: tuple[str, ...]
    level: float
    changes: tuple[Change, ...]
    only: tuple[dict[str, str], dict[str, str]]
    conditions: dict[str, dict[str, tuple[float, float]]]
    seconds: dict[str, tuple[float | None, float | None]]

    def of(self, word: str) -> list[Change]:
        """The changes of this word: MOVED, UNSEEN or UNKNOWN."""
        return [change for change in self.changes if change.word == word]

    @property
    def other_bounds(self) -> list[Change]:
        """The changes of claims whose bounds differ."""
        return [change for change in self.changes if change.bounds[0] != change.bounds[1]]

    def to_json(self) -> dict[str, Any]:
        """As a dict of plain values, without NaN and infinity."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def compare(a: Mapping[str, Any], b: Mapping[str, Any], names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Two results side by side, as `results.load` gives them; names: of the two, in what is shown."""
    claims = [{claim["claim"]: claim for claim in results["claims"]} for results in (a, b)]
    both = [name for name in claims[0] if name in claims[1]]
    reasons = {name: _unknown(claims[0][name], claims[1][name], (a, b)) for name in both}
    spreads = {name: (_spreads(claims[0][name]), _spreads(claims[1][name])) for name in both if not reasons[name]}
    picks = {name: claims[1][name].get("pick", "smallest") for name in spreads}
    level, intervals = _step_down(spreads, picks)
    changes = []
    for name in both:
        interval = intervals.get(name, (math.nan, math.nan, math.nan))
        changes.append(
            Change(
                name,
                claims[1][name]["estimand"],
                _interval(claims[0][name]),
                _interval(claims[1][name]),
                (claims[0][name]["verdict"], claims[1][name]["verdict"]),
                (claims[0][name].get("bound", "unknown"), claims[1][name].get("bound", "unknown")),
                *interval,
                UNKNOWN if reasons[name] else MOVED if _leaves_out_0(interval) else UNSEEN,
                reasons[name],
            )
        )
    conditions = {
        name: {key: (number(measures[key]), number(b["conditions"][name][key])) for key in _MEASURES}
        for name, measures in a["conditions"].items()
        if name in b["conditions"]
    }
    times = [_seconds(results) for results in (a, b)]
    return Comparison(
        visible(names),
        _differences(a, b),
        tuple(_notes(a, b, changes)),
        level,
        tuple(changes),
        (_missing(claims[0], claims[1], b), _missing(claims[1], claims[0], a)),
        conditions,
        {stage: (times[0].get(stage), times[1].get(stage)) for stage in times[0] | times[1]},
    )


def _seconds(results: Mapping[str, Any]) -> dict[str, float]:
    stages = {f"tasks: {stage}": seconds for stage, seconds in results.get("task_seconds", {}).items()}
    return {**results["wall_seconds"], **stages}


def _missing(claims: Mapping[str, Any], concluded: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    """Claims that another report did not conclude, and why; concluded, results: of that report."""
    reasons = results["not_concluded"]
    return {name: reasons.get(name, "not registered") for name in claims if name not in concluded}


def _step_down(
    spreads: Mapping[str, tuple[list[Spread], list[Spread]]], picks: Mapping[str, Pick]
) -> tuple[float, dict[str, tuple[float, float, float]]]:
    """The level at which no further claim moves, and each claim's change with its interval at that level."""
    moved: set[str] = set()
    while True:
        level = family_level(max(1, len(spreads) - len(moved)))
        intervals = {name: change(*pair, level, pick=picks[name]) for name, pair in spreads.items()}
        beyond = {name for name, interval in intervals.items() if _leaves_out_0(interval)}
        if beyond == moved:
            return level, intervals
        moved = beyond


def _leaves_out_0(interval: tuple[float, float, float]) -> bool:
    return interval[1] > 0 or interval[2] < 0


def _unknown(before: Mapping[str, Any], after: Mapping[str, Any], results: tuple[Any, Any]) -> str:
    """Why it can't be told whether a claim moved; else empty."""
    key = "stated" if "stated" in before and "stated" in after else "estimand"  # older results do not have both
    if before[key] != after[key]:
        return f"another estimand: {before['estimand']!r} in A, {after['estimand']!r} in B"
    for name, claim, study in zip("AB", (before, after), results, strict=True):
        if not claim["spreads"]:
            return f"no interval in {name}: {claim['message'].rpartition('no interval: ')[2]}"
        if claim["runs"] == 1 and not study["models"]["fixed"] and not _same_evidence(*results):
            return f"one run in {name}: its interval covers images only, and another run may differ"
        if all(math.isinf(end) for spread in _spreads(claim) for end in spread.ends(claim["level"])):
            return f"no finite interval in {name}: all images and runs agree, and the estimand has no range"
    return ""


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """All that could move a result and differs between two studies."""

    def facts(results: Mapping[str, Any]) -> dict[str, str]:
        dataset, models, made = results["dataset"], results["models"], results["environment"]
        seeds, bounds = results["seeds"], results["bounds"]
        return {
            "data set": dataset["name"],
            "test images": f"{dataset['test_images']:,}, digest {dataset['test_digest'][:12]}",
            "training images": f"digest {(dataset['train_digest'] or 'none')[:12]}",
            "use of training images": dataset.get("train_use", "unknown"),
            "pilot": "yes" if results["pilot"] else "no",
            "profile": results["profile"],
            "images looked at": ", ".join(f"{count:,} {name}" for name, count in _few(results["images"])),
            "seeds": f"{seeds[0]} to {seeds[-1]}",
            "attack budget": intensity(results["budget"]) if "budget" in results else "unknown",
            "draws": str(results["draws"]),
            "precision": results["precision"],
            "VAE": models["vae"],
            "classifier": models["classifier"],
            "weights": f"of {counted(len(seeds), 'run')}, digest {digest(models['digests'])[:12]}",
            "registry": results["registry_digest"][:12],
            "error rate": f"0.05 by {results.get('error_rate', FAMILY)}",
            "bounds": f"{bounds['file']}, digest {bounds['digest'][:12]}" if bounds else "registered",
            "vaecore": results.get("version", "unknown"),
            "source": f"digest {results['source_digest'][:12]}" if "source_digest" in results else "unknown",
            "git revision": results["git_revision"] or "unknown",
            "made": results["made"],
            "processor": made["processor"],
            "GPU": made["gpu"] or "none",
            "system": made["system"],
            "threads, workers": f"{made['threads']}, {made['workers']}",
            "Python": made["python"],
            **made["packages"],
        }

    in_a, in_b = facts(a), facts(b)
    keys = dict.fromkeys((*in_a, *in_b))
    return {key: (in_a.get(key, "-"), in_b.get(key, "-")) for key in keys if in_a.get(key) != in_b.get(key)}


def _few(images: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """One condition for each number of images."""
    seen: set[int] = set()
    for name, count in images.items():
        if count not in seen:
            seen.add(count)
            yield name, count


def _same_images(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return bool(a["dataset"]["test_digest"] == b["dataset"]["test_digest"])


def _same_evidence(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether both looked at the same weights, images and draws, so that chance moves nothing."""
    same = all(a.get(key) == b.get(key) for key in ("seeds", "images", "budget", "draws")) and _same_images(a, b)
    return same and bool(a["models"]["digests"] == b["models"]["digests"])


def _notes(a: Mapping[str, Any], b: Mapping[str, Any], changes: Sequence[Change]) -> Iterator[str]:
    if not _same_images(a, b):
        yield (
            "THE TEST IMAGES DIFFER: what moved tells as much of the data as of the models, and a claim that did not"
            " move may have gained on harder images"
        )
    elif _same_evidence(a, b):
        pairs = [(pair.before[0], pair.after[0]) for pair in changes]
        apart = [
            abs(after - before)
            for before, after in pairs
            if before != after and not (math.isnan(before) and math.isnan(after))
        ]
        sizes = [size for size in apart if math.isfinite(size)]
        largest = f", the largest by {max(sizes):.2g}" if sizes else ""
        yield (
            f"the same weights on the same images: {len(apart)} of {len(changes)} estimates differ{largest}; what moves"
            " one is code, precision or machine, and not chance"
        )
    else:
        yield "the test images are of one set, which the intervals do not credit: they are wider than need be"
    judged = sum(pair.bounds[0] != pair.bounds[1] for pair in changes)
    what = "registries" if a["registry_digest"] != b["registry_digest"] else "bounds"
    if judged:
        yield (
            f"the {what} differ: {counted(judged, 'claim')} had another bound, as listed below, and another verdict"
            " does not mean that anything moved"
        )
    elif what == "registries":
        yield "the registries differ, but no claim that both concluded had another bound"
    for name, results in (("A", a), ("B", b)):
        if results["pilot"]:
            yield f"{name} is a pilot: it measures and judges nothing, and its estimates have set bounds"
        if results["profile"] == "smoke":
            yield f"{name} is a smoke test: few images, and its models may have run once only"
    if "budget" in a and "budget" in b and a["budget"] != b["budget"]:
        yield "the attack budgets differ: a claim may have moved by the size of attacks and noise alone"
    if a["draws"] != b["draws"]:
        yield "the draws differ: consistency and all that counts labels fall as there are more"


def _spreads(claim: Mapping[str, Any]) -> list[Spread]:
    """The spreads of a claim, of which JSON turned infinite limits into null."""
    spreads = []
    for values in claim["spreads"]:
        low, high = values["limits"]
        limits = -math.inf if low is None else low, math.inf if high is None else high
        numbers = {field.name: values[field.name] for field in fields(Spread)}
        spreads.append(Spread(**{**numbers, "limits": limits}))
    return spreads


def _interval(claim: Mapping[str, Any]) -> tuple[float, float, float]:
    return number(claim["estimate"]), number(claim["low"]), number(claim["high"])


def text(comparison: Comparison, *, width: int, color: bool, unicode: bool) -> str:
    """The comparison for a terminal, of 80 columns or more."""
    console = recording(max(width, 80), color=color)
    lines, claims = box.SIMPLE if unicode else ASCII, counted(len(comparison.changes), "claim")
    console.print(f"A: {comparison.names[0]}\nB: {comparison.names[1]}", soft_wrap=True)
    for note in comparison.notes:
        console.print(f"Note: {note}.", style="yellow")
    if comparison.differs:
        console.print(
            _grid(["", "A", "B"], [(key, *pair) for key, pair in comparison.differs.items()], lines, fold=True)
        )
    else:
        console.print("\nThe two studies differ in nothing.")
    for word, style in ((MOVED, "bold yellow"), (UNSEEN, "bold")):
        members = comparison.of(word)
        if members:
            console.print(Text(f"\n{word.capitalize()}: {len(members)} of {claims}", style=style))
            rows = [_cells(change, "\n") for change in members]
            console.print(_grid(["claim", "A", "B", "B - A", "verdict"], rows, lines))
    if comparison.of(UNKNOWN):
        console.print(Text(f"\nCannot tell: {len(comparison.of(UNKNOWN))} of {claims}", style="bold"))
        for unknown in comparison.of(UNKNOWN):
            console.print(f"  {unknown.claim}: {unknown.why}")
    if comparison.other_bounds:
        console.print(Text(f"\nBounds that differ: {len(comparison.other_bounds)} of {claims}", style="bold"))
        console.print(_grid(_BOUNDS, [*_bounds(comparison)], lines))
    console.print(f"\n{_method(comparison)}")
    for name, alone in zip("AB", comparison.only, strict=True):
        if alone:
            console.print(f"Concluded in {name} only: {_reasons(alone)}.")
    if comparison.conditions:
        console.print(Text("\nConditions, A and B", style="bold"))
        console.print(_grid(["condition", *_MEASURES], [*_conditions(comparison)], lines))
    times = ", ".join(_times(comparison))
    if times:
        console.print(f"\n{_TIME}: {times}.")
    return "\n".join(line.rstrip() for line in printed(console).splitlines()) + "\n"


def markdown(comparison: Comparison) -> str:
    """The comparison as Markdown, for a pull request."""
    comparison = literal(comparison)
    out = [
        f"# {comparison.names[0]} and {comparison.names[1]}",
        "",
        f"A: {comparison.names[0]}, B: {comparison.names[1]}.",
        "",
    ]
    out += [f"> {note[0].upper()}{note[1:]}." for note in comparison.notes]
    out += [
        "",
        *(
            _table(["", "A", "B"], [(key, *pair) for key, pair in comparison.differs.items()])
            if comparison.differs
            else []
        ),
    ]
    counts = ", ".join(f"{len(comparison.of(word))} {word}" for word in (MOVED, UNSEEN, UNKNOWN))
    out += ["", f"## Claims: {counts}", "", _method(comparison), ""]
    rows = [(f"**{MOVED}**", *_cells(moved, " "), moved.estimand) for moved in comparison.of(MOVED)]
    rows += [(UNSEEN, *_cells(unseen, " "), unseen.estimand) for unseen in comparison.of(UNSEEN)]
    out += _table(["", "claim", "A", "B", "B - A", "verdict", "estimand"], rows) if rows else []
    out += ["", *(f"- {unknown.claim}: cannot tell; {unknown.why}" for unknown in comparison.of(UNKNOWN))]
    out += [
        f"- concluded in {name} only: {_reasons(ids)}" for name, ids in zip("AB", comparison.only, strict=True) if ids
    ]
    if comparison.other_bounds:
        out += ["", "## Bounds that differ", "", *_table(_BOUNDS, [*_bounds(comparison)])]
    if comparison.conditions:
        out += ["", "## Conditions, A and B", "", *_table(["condition", *_MEASURES], [*_conditions(comparison)])]
    times = ", ".join(_times(comparison))
    out += ["", f"{_TIME}: {times}."] if times else []
    return "\n".join(out) + "\n"


def _method(comparison: Comparison) -> str:
    return (
        f"Intervals of B - A at level {comparison.level:.4f} each; a claim moved where 0 is outside. 0.05 for all"
        " claims together, runs taken as independent. No movement seen is not equality: see how wide the interval is."
    )


def _reasons(claims: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({why})" for name, why in claims.items())


def _cells(change: Change, between: str) -> tuple[str, str, str, str, str]:
    def show(estimate: float, low: float, high: float, sign: str = "") -> str:
        return f"{estimate:{sign}.3f}{between}[{low:{sign}.3f}, {high:{sign}.3f}]"

    before, after = change.verdicts
    verdict = before if before == after else f"{before} ->{between}{after}"
    ends = change.change, change.low, change.high
    return change.claim, show(*change.before), show(*change.after), show(*ends, "+"), verdict


def _bounds(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for claim in comparison.other_bounds:
        yield claim.claim, *claim.bounds, _cells(claim, " ")[-1]


def _conditions(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for name, row in comparison.conditions.items():
        yield name, *(f"{row[key][0]:.{places}f} {row[key][1]:.{places}f}" for key, places in _MEASURES.items())


_TIME = "Wall time of computing, with what the caches held, and time of tasks, when they were computed, A and B"


def _times(comparison: Comparison) -> Iterator[str]:
    for stage, pair in comparison.seconds.items():
        before, after = ("-" if seconds is None else f"{seconds:.0f}" for seconds in pair)
        yield f"{stage} {before} and {after} s"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], lines: box.Box, *, fold: bool = False) -> Grid:
    grid = Grid(box=lines, show_edge=False, pad_edge=False, padding=(0, 1))
    for name in head:
        grid.add_column(name, no_wrap=not fold, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
