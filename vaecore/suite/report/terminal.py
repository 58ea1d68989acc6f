"""The claims on the terminal: the header, the table of verdicts and the histogram of distinct labels."""

import io
from collections.abc import Sequence

import torch
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from vaecore.suite.judging.registry import Registry
from vaecore.suite.judging.verdict import Verdict
from vaecore.suite.study.detection import matrix
from vaecore.suite.study.draws import CLEAN, CONDITIONS, LBFGS
from vaecore.suite.study.study import PILOT_SEED, Study

_STYLES = {"supported": "green", "refuted": "red", "inconclusive": "yellow", "pilot": "cyan", "reported": "cyan"}
_PLAIN = box.Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)  # box.SIMPLE in ASCII
_SCORES = ("mse", "latent-knn", "max-softmax", "mean-pixel")  # shown of all
_SHOWN = 5  # distinct labels shown one by one; more are pooled


def header(study: Study, registry: Registry) -> list[str]:
    """What is studied, and why: data set, device, profile, runs, images, cache and registry."""
    profile, test = study.profile, study.test
    if study.device.type == "cuda":
        device = torch.cuda.get_device_name(study.device)
    else:
        device = f"{study.workers} workers" if study.workers > 1 else f"{torch.get_num_threads()} threads"
    first, last = study.seeds[0], study.seeds[-1]
    runs = f"{len(study.seeds)} runs (seeds {first} to {last})" if last > first else f"1 run (seed {first})"
    models = ", ".join(f"{kind} {text}" for text, kind in study.given if text is not None) or "reference models"
    precision = "" if study.precision == "float32" else f"; reconstructions in {study.precision}"
    left_out = [f"set outside left out: {name}: {why}" for name, why in study.outside.left_out.items()]
    return [
        f"dataset: {test.name} ({study.dataset.why}), {len(test):,} test images, digest {test.digest[:12]}",
        f"profile: {profile.name}, {runs}, {study.count(CLEAN):,} images ({study.count(LBFGS):,} for L-BFGS); {models}",
        f"intervals cover {study.covers}",
        f"device: {study.device.type} ({device}){precision}; cache: {study.store.folder}",
        f"registry: {len(registry.claims)} claims, digest {registry.digest[:12]}",
        *_bounds(study, registry),
        *left_out,
    ]


def _bounds(study: Study, registry: Registry) -> list[str]:
    """Where the bounds of data come from that no registry has any for, and what would set them."""
    given = registry.bounds
    if given is not None:
        pilot, seeds = given.pilot, given.pilot["seeds"]
        told = f"pilot of {pilot['date']} (seeds {seeds[0]} to {seeds[-1]})"
        notes = [f"note: {note}" for note in given.notes(study, registry)]
        return [f"bounds: {given.file}, digest {given.digest[:12]}, {told}", *notes]
    if study.seeds[0] >= PILOT_SEED or not any(claim.settable for claim in registry.claims.values()):
        return []
    ways = "the same command with --pilot --bounds FILE sets some, and with --bounds FILE judges by them"
    return [f"bounds: none for {study.test.name}, judged against no effect; {ways}"]


def summary(
    study: Study,
    registry: Registry,
    verdicts: Sequence[Verdict],
    flags: Sequence[str],
    *,
    width: int,
    color: bool,
    unicode: bool,
) -> str:
    """The verdicts grouped by family, how many labels the reconstructions got, sanity flags, and what did not run."""
    console = Console(
        file=io.StringIO(),
        width=max(width, 60),
        force_terminal=color,
        no_color=not color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        legacy_windows=False,
    )
    for family in dict.fromkeys(registry.claims[verdict.claim].family for verdict in verdicts):
        console.print(Text(f"\n{family}. {registry.families[family]}", style="bold"))
        members = [verdict for verdict in verdicts if registry.claims[verdict.claim].family == family]
        console.print(_verdicts(registry, members, box.SIMPLE if unicode else _PLAIN))
    looked_at = [condition for condition in CONDITIONS if any(condition in verdict.conditions for verdict in verdicts)]
    counted = [condition for condition in looked_at if len(study.found(condition)) > 1]
    if counted:
        console.print(Text("\nDistinct labels over 10 reconstructions, share of images", style="bold"))
        console.print(_histogram(study, counted, bar="█" if unicode else "#"))
        accuracy = [study.accuracy(run) for run in study.runs]
        spread = f"{min(accuracy):.4f} to {max(accuracy):.4f} over {len(accuracy)} runs"
        console.print(f"\nClassifier accuracy on all {len(study.test):,} test images: {spread}")
    sets = study.outside.named(condition for verdict in verdicts for condition in verdict.conditions)
    if sets:
        console.print(Text("\nAUROC of some of the scores, set by set (0.5: no better than chance)", style="bold"))
        console.print(_detection(study, sets))
    console.print(Text("\nSanity flags of the attacks", style="bold"))
    for flag in flags or ["none raised"]:
        console.print(f"  {flag}", style="yellow" if flags else "")
    missing = no_verdict(study, registry, verdicts)
    reasons: dict[str, list[str]] = {}
    for name, reason in missing.items():
        reasons.setdefault(reason, []).append(name)
    if reasons:
        console.print(Text("\nNo verdict", style="bold"))
        for reason, names in reasons.items():
            console.print(f"  {', '.join(names)}: {reason}")
    console.print()
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def no_verdict(study: Study, registry: Registry, verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Each claim that was not concluded, and why."""
    concluded = {verdict.claim for verdict in verdicts}
    return {
        claim.id: claim.unregistered or claim.untested or study.outside.lacks(claim.outside) or "not run"
        for claim in registry.claims.values()
        if claim.id not in concluded
    }


def tally(kinds: Sequence[str]) -> str:
    """How many of each verdict, in words."""
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in _STYLES if kind in kinds)


def _verdicts(registry: Registry, verdicts: Sequence[Verdict], lines: box.Box) -> RenderableType:
    grid = Grid(box=lines, show_edge=False, pad_edge=False, padding=(0, 1))
    grid.add_column("claim", no_wrap=True)
    grid.add_column("", ratio=1, min_width=16, overflow="fold")
    grid.add_column("estimate [interval]", no_wrap=True)
    grid.add_column("bound", no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    for verdict in verdicts:
        claim = registry.claims[verdict.claim]
        interval = f"{verdict.estimate:.3f} [{verdict.low:.3f}, {verdict.high:.3f}]"
        sentence = claim.sentence if claim.kind == "finding" else f"({claim.kind}) {claim.sentence}"
        style = _STYLES[verdict.verdict]
        outcome = verdict.verdict if verdict.verdict != "pilot" else f"power {verdict.power:.2f}"
        cells = (verdict.claim, sentence, interval, verdict.bound)
        grid.add_row(*(Text(cell) for cell in cells), Text(outcome, style=style))
    return grid


def _detection(study: Study, sets: Sequence[str]) -> RenderableType:
    """A row for each set: the AUROC of a few scores, and which of all scores is best."""
    cells = matrix(study, sets)
    grid = Grid(box=None, padding=(0, 1), pad_edge=False)
    grid.add_column("set", no_wrap=True)
    for name in _SCORES:
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("best of all", no_wrap=True)
    for one in sets:
        known = {name: row[one]["auroc"] for name, row in cells.items() if row[one]["auroc"] >= 0}  # not NaN
        best = max(known, key=lambda name: known[name], default=None)
        shown = [f"{known[name]:.2f}" if name in known else "-" for name in _SCORES]
        grid.add_row(one, *shown, "-" if best is None else f"{known[best]:.2f} {best}")
    return grid


def _histogram(study: Study, conditions: Sequence[str], *, bar: str) -> RenderableType:
    grid = Grid(box=None, padding=(0, 1), pad_edge=False)
    grid.add_column("condition", no_wrap=True)
    for count in range(1, _SHOWN):
        grid.add_column(str(count), justify="right", no_wrap=True)
    grid.add_column(f"{_SHOWN}+", justify="right", no_wrap=True)
    grid.add_column("one label", no_wrap=True)
    for condition in conditions:
        distinct = study.paired(condition)[0].distinct
        shares = [float((distinct == count).mean()) for count in range(1, _SHOWN)]
        shares.append(float((distinct >= _SHOWN).mean()))
        grid.add_row(condition, *(f"{share:.2f}" for share in shares), bar * round(30 * shares[0]))
    return grid
