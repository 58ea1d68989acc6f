"""The report as one self-contained HTML page, drawn from the results and the figures alone."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vaecore.suite.judging.registry import KINDS, family_of
from vaecore.suite.judging.verdict import VERDICTS, outcome
from vaecore.suite.report import again, forest
from vaecore.suite.report.figures.catalogue import FIGURES, Caption, caption, figures_of, shown
from vaecore.suite.report.forest import Forest, Margin
from vaecore.suite.results import ATTACKS, load, plain
from vaecore.suite.text import counted, intensity
from vaecore.toolkit import sweep, write_atomically

FILE = "index.html"
_EVERYWHERE = ("clean", "outside/inside")  # conditions that most claims of a family share
_KINDS_BESIDE = KINDS[1:]


@dataclass(frozen=True)
class Picture:
    """A figure in the page. number: counted from 1. source: its content as a data URL."""

    name: str
    number: int
    caption: Caption
    source: str


@dataclass(frozen=True)
class Entry:
    """A claim in the page. facts: its part of the results. anchor: its id in the page.

    runs: the estimate of each run, by its seed where there is one for each. threats: each condition with its threat
    model. beside: anchor and facts of the controls, baselines and limits beside it.
    """

    facts: Mapping[str, Any]
    anchor: str
    forest: Forest | None
    margin: Margin | None
    runs: list[tuple[str, float | None]]
    threats: list[tuple[str, str]]
    beside: list[tuple[str, Mapping[str, Any]]]
    pictures: list[Picture]


@dataclass(frozen=True)
class Family:
    """The claims of a family, in the results' order. counts: of each verdict, in the order of VERDICTS."""

    letters: str
    title: str
    entries: list[Entry]
    counts: list[int]


def render(results: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """The page of results; parts that they lack, such as sanity flags, are left out.

    figures: the content of files by name; of a figure's PNG and SVG the smaller is shown.
    """
    results = plain(results)
    claims, pictures = results["claims"], _pictures(results, figures)
    named = {condition for claim in claims for condition in claim["conditions"]}
    conditions = [*results["conditions"], *sorted(named - set(results["conditions"]))]
    missing: dict[str, list[str]] = {}
    for name, reason in results["not_concluded"].items():
        missing.setdefault(reason, []).append(name)
    template = _environment().get_template("page.html.j2")
    return template.render(
        results=results,
        families=_families(results, pictures),
        pictures=pictures,
        verdicts=[name for name in VERDICTS if any(claim["verdict"] == name for claim in claims)],
        all_verdicts=VERDICTS,
        kinds=[kind for kind in KINDS if any(claim["kind"] == kind for claim in claims)],
        conditions=[(name, results["threats"][name], results["conditions"].get(name)) for name in conditions],
        missing=missing,
        attacks=ATTACKS,
        again=again.sentences(results),
        error_rate=again.error_rate(results),
        shared_ticks=[(forest.shared(value), value) for value in range(-4, 9, 4)],
    )


def write(folder: Path) -> Path:
    """Draw the page of a report's folder again, from its results and figures; returns its path.

    Raises ValueError where the folder holds no results of this version.
    """
    results = load(folder)
    names = FIGURES if "trials" in results else ()  # a report on some claims alone has no figures
    files = [folder / f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    page = render(results, {path.name: path.read_bytes() for path in files if path.is_file()})
    sweep(folder, FILE)
    write_atomically(folder / FILE, page.encode())
    return folder / FILE


def _pictures(results: Mapping[str, Any], figures: Mapping[str, bytes]) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    for name in shown(results):
        types = (("png", "image/png"), ("svg", "image/svg+xml"))
        files = [(figures[f"{name}.{suffix}"], media) for suffix, media in types if f"{name}.{suffix}" in figures]
        if files:
            content, media = min(files, key=lambda file: len(file[0]))
            source = f"data:{media};base64,{base64.b64encode(content).decode()}"
            pictures[name] = Picture(name, len(pictures) + 1, caption(results, name), source)
    return pictures


def _families(results: Mapping[str, Any], pictures: Mapping[str, Picture]) -> list[Family]:
    titles, families = results["families"], []
    for letters in dict.fromkeys(family_of(claim["claim"]) for claim in results["claims"]):
        members = [claim for claim in results["claims"] if family_of(claim["claim"]) == letters]
        counts = [sum(claim["verdict"] == verdict for claim in members) for verdict in VERDICTS]
        entries = [_entry(claim, members, results, pictures) for claim in members]
        families.append(Family(letters, titles.get(letters, letters), entries, counts))
    return families


def _entry(
    claim: Mapping[str, Any],
    family: Sequence[Mapping[str, Any]],
    results: Mapping[str, Any],
    pictures: Mapping[str, Picture],
) -> Entry:
    per_run, seeds = claim["per_run"], results["seeds"]
    names = (
        [f"seed {seed}" for seed in seeds]
        if len(seeds) == len(per_run)
        else [f"run {n + 1}" for n in range(len(per_run))]
    )
    own = set(claim["conditions"])
    own = own - set(_EVERYWHERE) or own
    beside = [
        (_anchor(other["claim"]), other)
        for other in family
        if other is not claim and other["kind"] in _KINDS_BESIDE and own & set(other["conditions"])
    ]
    return Entry(
        claim,
        _anchor(claim["claim"]),
        forest.forest(claim),
        forest.margin(claim),
        list(zip(names, per_run, strict=True)),
        [(condition, results["threats"][condition]) for condition in claim["conditions"]],
        beside,
        [pictures[name] for name in figures_of(claim["claim"], pictures)],
    )


def _anchor(claim: str) -> str:
    return "claim-" + re.sub(r"[^A-Za-z0-9_-]", "_", claim)


@cache
def _environment() -> Environment:
    """The environment of the templates: texts are escaped, and a name that is not given is an error."""
    environment = Environment(
        loader=PackageLoader("vaecore.suite.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": forest.number,
        "measured": forest.measured,
        "counted": counted,
        "intensity": intensity,
        "outcome": outcome,
        "slug": lambda words: words.replace(" ", "-"),
    }
    environment.tests |= {"near": again.is_near}
    return environment
