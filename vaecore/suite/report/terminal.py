"""Results on the terminal: header, preconditions, verdicts by family; distinct labels, AUROC, flags."""

import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from vaecore.suite.facts import Facts
from vaecore.suite.judging.registry import Registry, family_of, shared_rate
from vaecore.suite.judging.verdict import outcome
from vaecore.suite.report import again
from vaecore.suite.results import number
from vaecore.suite.text import counted, intensity

Results = Mapping[str, Any]
STYLES = {
    "supported": "green",
    "refuted": "red",
    "inconclusive": "yellow",
    "not judged": "yellow",
    "pilot": "cyan",
    "reported": "cyan",
}
ASCII = box.Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)  # box.SIMPLE in ASCII
_SCORES = ("mse", "latent-knn", "max-softmax")  # those shown
_COLUMNS = 5  # of distinct labels; the last one pools the rest


def header(facts: Facts, registry: Registry, cache: str) -> list[str]:
    """Data set, profile, models, intervals, device, cache, registry and bounds of a study, a line each."""
    device = facts.gpu or (f"{facts.workers} workers" if facts.workers > 1 else counted(facts.threads, "thread"))
    first, last = facts.seeds[0], facts.seeds[-1]
    runs = f"{counted(facts.runs, 'run')} ({f'seeds {first} to {last}' if last > first else f'seed {first}'})"
    options = (("vae", facts.vae), ("classifier", facts.classifier))
    models = ", ".join(f"{kind} {text}" for kind, text in options if text != "reference") or "reference models"
    precision = "" if facts.precision == "float32" else f"; reconstructions in {facts.precision}"
    images = f"{counted(facts.images['clean'], 'image')} ({facts.images['lbfgs']:,} for L-BFGS)"
    test_images = f"{counted(facts.test_images, 'test image')}, digest {facts.test_digest[:12]}"
    if facts.train_images is not None:
        test_images = f"{counted(facts.train_images, 'training image')}, {test_images}"
    if facts.pilot:
        test_images = f"{counted(facts.test_images, 'training image')} that no model of the pilot sees"
    protocol = f"attack budget {intensity(facts.budget)}, {counted(facts.draws, 'draw')} an image"
    return [
        f"dataset: {facts.dataset} ({facts.why}), {test_images}",
        f"profile: {facts.profile}, {runs}, {images}; {protocol}; {models}",
        f"intervals cover {facts.covers}; error rate {shared_rate(registry.error_rate, len(registry.judged_families))}",
        f"device: {facts.device} ({device}){precision}; cache: {cache}",
        f"registry: {counted(len(registry.claims), 'claim')}, digest {registry.digest[:12]}",
        *_bounds(facts, registry),
        *(f"set outside left out: {name}: {why}" for name, why in facts.left_out.items()),
    ]


def _bounds(facts: Facts, registry: Registry) -> list[str]:
    """For data without registered bounds: the file that gives them, or how to set them."""
    bounds = registry.bounds
    refused = [f"note: {registry.refused}"] if registry.refused else []
    if bounds is not None:
        pilot, seeds = bounds.pilot, bounds.pilot["seeds"]
        source = f"pilot of {pilot['date']} (seeds {seeds[0]} to {seeds[-1]})"
        told = bounds.notes(facts, registry.digest, registry.claims, registry.error_rate)
        notes = [f"note: {note}" for note in told]
        return [*refused, f"bounds: {bounds.file}, digest {bounds.digest[:12]}, {source}", *notes]
    if facts.pilot or not any(claim.settable for claim in registry.claims.values()):
        return refused
    ways = "the same command with --pilot --bounds FILE sets some, and with --bounds FILE judges by them"
    whose = "this protocol" if refused else facts.dataset
    return [*refused, f"bounds: none for {whose}, judged against no effect; {ways}"]


def recording(width: int, *, color: bool) -> Console:
    """A console that keeps what is printed on it, for `printed`; texts in brackets or colons are as they stand."""
    return Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        force_jupyter=False,  # which would show it there, and not keep it
        no_color=not color,
        color_system="standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def printed(console: Console) -> str:
    """What was printed on a console of `recording`, without spaces at the ends of lines."""
    output = console.file
    assert isinstance(output, io.StringIO)
    return "".join(line.rstrip() + "\n" for line in output.getvalue().splitlines())


def verdicts(results: Results, *, width: int, color: bool) -> str:
    """Preconditions, verdicts by family, reasons for what is not supported, claims without a verdict.

    width: 60 columns or more. A claim takes two lines: its sentence; its numbers, with runs x images.
    """
    console = recording(max(width, 60), color=color)
    if results["profile"] == "smoke":
        console.print(Text("\nA smoke test: it shows that all runs, and neither supports nor refutes.", style="yellow"))
    preconditions = results["preconditions"]
    console.print(Text("\nPreconditions, each by its worst run or set", style="bold"))
    for one in preconditions:
        undermined = "" if one["met"] else f"; undermines {', '.join(one['undermines'])}"
        line = f"  {'met' if one['met'] else 'NOT MET'}: {one['message']}{undermined}"
        console.print(Text(line, style="" if one["met"] else "yellow"))
    claims = results["claims"]
    for family in dict.fromkeys(family_of(claim["claim"]) for claim in claims):
        members = [claim for claim in claims if family_of(claim["claim"]) == family]
        level = f", intervals at level {members[0]['level']:.4f}"
        console.print(Text(f"\n{family}. {results['families'][family]}", style="bold") + Text(level))
        console.print(_verdicts(members))
    reasons = {claim["claim"]: f"{claim['verdict']}: {claim['why']}" for claim in claims if claim["why"]}
    for title, of in (("Why not supported", reasons), ("No verdict", results["not_concluded"])):
        if of:
            console.print(Text(f"\n{title}", style="bold"))
        for reason in dict.fromkeys(of.values()):
            names = ", ".join(name for name, why in of.items() if why == reason)
            console.print(Text(f"  {names}: {reason}"))
    for number_of, sentence in enumerate(again.sentences(results)):
        console.print(f"\n~ {sentence}" if number_of == 0 else sentence)
    console.print()
    return printed(console)


def measured(results: Results, *, width: int, color: bool, unicode: bool) -> str:
    """Distinct labels, AUROC and sanity flags, of 60 columns or more."""
    console = recording(max(width, 60), color=color)
    if results["conditions"]:
        drawn = counted(results["draws"], "reconstruction")
        console.print(Text(f"\nDistinct labels over {drawn}, share of images", style="bold"))
        console.print(_histogram(results["conditions"], bar="█" if unicode else "#"))
        accuracy = results["accuracy_per_run"]
        spread = f"{min(accuracy):.4f} to {max(accuracy):.4f} over {counted(len(accuracy), 'run')}"
        test_images = counted(results["dataset"]["test_images"], "test image")
        console.print(f"\nClassifier accuracy on all {test_images}: {spread}")
    if results["detection"]:
        console.print(Text("\nAUROC of some of the scores, set by set (0.5: no better than chance)", style="bold"))
        console.print(_detection(results["detection"]["cells"]))
    flags = results["sanity_flags"]
    console.print(Text("\nSanity flags of the attacks", style="bold"))
    for flag in flags or ["none raised"]:
        console.print(f"  {flag}", style="yellow" if flags else "")
    console.print()
    return printed(console)


def only(results: Results, names: Collection[str]) -> Results:
    """The results of the named conditions and sets alone; names: full ones."""
    conditions = {name: condition for name, condition in results["conditions"].items() if name in names}
    detection = results.get("detection")
    if detection:
        cells = {
            score: {name: cell for name, cell in row.items() if f"outside/{name}" in names}
            for score, row in detection["cells"].items()
        }
        detection = {"cells": cells} if any(cells.values()) else None
    return {**results, "conditions": conditions, "detection": detection}


def _verdicts(claims: Sequence[Results]) -> RenderableType:
    grid = Grid(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True, min_width=5)
    grid.add_column(ratio=1, overflow="fold")
    for claim in claims:
        estimate, low, high = (number(claim[key]) for key in ("estimate", "low", "high"))
        sentence = claim["sentence"] if claim["kind"] == "finding" else f"({claim['kind']}) {claim['sentence']}"
        word = outcome(claim) if claim["verdict"] != "pilot" else f"power {number(claim['power']):.2f}"
        word = f"~{word}" if again.is_near(claim) else word
        looked_at = f"{claim['runs']} x {claim['images']:,}"
        numbers = Text(f"{estimate:.3f} [{low:.3f}, {high:.3f}], bound {claim['bound']}, {looked_at}: ")
        grid.add_row(Text(claim["claim"]), Text(sentence))
        grid.add_row("", numbers + Text(word, style=STYLES[claim["verdict"]]))
    return grid


def _detection(cells: Results) -> RenderableType:
    """A row for each set: the AUROC of a few scores, and the best of all scores."""
    grid = Grid(box=None, padding=(0, 1), pad_edge=False)
    grid.add_column("set", no_wrap=True)
    for name in _SCORES:
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("best of all", no_wrap=True)
    for outside in next(iter(cells.values())):
        areas = {name: number(row[outside]["auroc"]) for name, row in cells.items()}
        areas = {name: area for name, area in areas.items() if math.isfinite(area)}
        best = max(areas, key=lambda name: areas[name], default=None)
        shown = [f"{areas[name]:.2f}" if name in areas else "-" for name in _SCORES]
        grid.add_row(outside, *shown, "-" if best is None else f"{areas[best]:.2f} {best}")
    return grid


def _histogram(conditions: Results, *, bar: str) -> RenderableType:
    grid = Grid(box=None, padding=(0, 1), pad_edge=False)
    grid.add_column("condition", no_wrap=True)
    for count in range(1, _COLUMNS):
        grid.add_column(str(count), justify="right", no_wrap=True)
    grid.add_column(f"{_COLUMNS}+", justify="right", no_wrap=True)
    grid.add_column("one label", no_wrap=True)
    for name, condition in conditions.items():
        shares = [entry["share"] for entry in condition["distinct_labels"]]
        shares = [*shares[: _COLUMNS - 1], sum(shares[_COLUMNS - 1 :])]
        grid.add_row(name, *(f"{share:.2f}" for share in shares), bar * round(28 * shares[0]))
    return grid
