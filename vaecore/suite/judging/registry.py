"""Registries of claims: every sentence, estimand and bound, read from `registry.toml` and checked.

This package has a registry, and so have a user's claims, beside their tests.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vaecore.suite.budget import DRAWS, GREY, budget_of
from vaecore.suite.judging.bound import Bound, Standing, problems_of, read_toml, standing
from vaecore.suite.judging.bounds import Bounds
from vaecore.suite.judging.findings import FAMILY, REGISTRY, STUDY, shown
from vaecore.suite.statistics.intervals import family_level
from vaecore.suite.text import counted, intensity
from vaecore.toolkit import EMBEDDED, TORCHVISION, digest

KINDS = ("finding", "control", "baseline", "limit")
_TEXTS = {"kind", "sentence", "estimand", "source", "no_effect", "untested", "reported", "outside", "needs"}
BACKGROUND = "background"  # what a claim may need images to have
_TABLES = ("families", "protocols")  # tables that are no claims
_DATASETS = {*TORCHVISION, *EMBEDDED}  # of this package's registry; a user's may name any
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_SIZE = re.compile(r"\{(?:(\d+(?:\.\d+)?) )?(budget|draws)\}")


@dataclass(frozen=True)
class Claim:
    """A registered claim as it stands for one data set.

    bound: None where it is not registered for that data set, for the reason in `unregistered`.
    level: of its interval, shared out within its family. registered: date of the bound, empty for no effect.
    untested: why no test concludes it yet, else empty. reported: why it is measured and not judged, else empty; then
    its bound is none, on any data set, and it takes no share of its family's error rate.
    outside: the set outside that it takes, for instance "kmnist"; empty where it takes none or a made one. needs: what
    the images must have, BACKGROUND or nothing. file: of its registry. settable: its registry has no bounds for the
    study, so that a pilot may set them. stated: sentence and estimand as they are registered, of any attack budget and
    number of draws.
    """

    id: str
    kind: str
    sentence: str
    estimand: str
    source: str
    no_effect: Bound
    bound: Bound | None
    level: float
    registered: str = ""
    pilot: str = ""
    unregistered: str = ""
    untested: str = ""
    reported: str = ""
    outside: str = ""
    needs: str = ""
    file: Path = REGISTRY
    settable: bool = False
    stated: Mapping[str, str] = field(default_factory=dict)

    def suggested(self, pilot: float) -> Bound:
        """The bound that a pilot's mean suggests: half-way from no effect, rounded towards no effect to two digits.

        No effect itself where the pilot shows none, or is NaN, and where it has two sides: that two things are equal to
        within a margin is no effect to go half-way from.
        """
        if self.no_effect.low > -math.inf and self.no_effect.high < math.inf:
            return self.no_effect
        rounds_up = self.no_effect.high < float("inf")
        null = self.no_effect.high if rounds_up else self.no_effect.low
        if not (pilot < null if rounds_up else pilot > null):
            return self.no_effect
        half = (null + pilot) / 2
        return Bound(high=math.ceil(half * 100) / 100) if rounds_up else Bound(low=math.floor(half * 100) / 100)

    @property
    def family(self) -> str:
        """The letters that start the id."""
        return family_of(self.id)


@dataclass(frozen=True)
class Registry:
    """Claims for one data set, by id.

    digest: of the files that they stand in. families: their titles, by letters. bounds: of a user's own data, where a
    file gives them. error_rate: FAMILY or STUDY, whose intervals share one. refused: why registered bounds are not the
    study's, else empty.
    """

    claims: Mapping[str, Claim]
    digest: str
    families: Mapping[str, str] = field(default_factory=dict)
    bounds: Bounds | None = None
    error_rate: str = FAMILY
    refused: str = ""

    @property
    def judged_families(self) -> list[str]:
        """The letters of families of which a claim is judged."""
        return list(dict.fromkeys(claim.family for claim in self.claims.values() if _is_judged(claim)))

    @property
    def testable(self) -> list[Claim]:
        """Claims registered for the data set that a test can conclude."""
        return [claim for claim in self.claims.values() if claim.bound is not None and not claim.untested]


def registry_of(test: Path) -> Path:
    """The registry of a test's file: beside it, else that of this package."""
    beside = test.with_name(REGISTRY.name)
    return beside if beside.is_file() and not beside.samefile(REGISTRY) else REGISTRY


def family_of(claim: str) -> str:
    """The letters that start a claim's id; the claims of a family share an error rate."""
    return claim.rstrip("abcdefghijklmnopqrstuvwxyz").rstrip("0123456789")


def shared_rate(error_rate: str, families: int) -> str:
    """The error rate that so many families' intervals share, in words."""
    if error_rate == STUDY:
        return "0.05 for all claims together"
    return "0.05 a family" + (f", so at most {0.05 * families:.2f} for the {families} together" if families > 1 else "")


def load_registry(
    dataset: str,
    *files: Path,
    bounds: Bounds | None = None,
    error_rate: str = FAMILY,
    budget: float | None = None,
    draws: int | None = None,
) -> Registry:
    """Read the claims of one registry or several (by default this package's) as they stand for a data set.

    Claims of a file that has no bounds for the data set are judged against no effect or, where given, by `bounds`.
    error_rate: whether the claims of a family share 0.05 or those of all families. budget, draws: the study's, by
    default those that the bounds are valid for; bounds are refused where these are others.
    Raises ValueError where a file is malformed, or has a family that another has: a family shares one error rate, and
    that of this package's must not move.
    """
    order = sorted(set(files), key=lambda file: (file != REGISTRY, file)) or [REGISTRY]
    owners = dict.fromkeys(map(family_of, _read(REGISTRY)[0]), REGISTRY)
    claims: dict[str, Claim] = {}
    titles: dict[str, str] = {}
    refusals: list[str] = []
    for file in order:
        entries, named, protocols = _read(file)
        valid = protocols.get(dataset)
        usual = valid or Valid()
        asked = Valid(usual.budget if budget is None else budget, usual.draws if draws is None else draws)
        refused = valid is not None and asked != valid
        if refused:
            refusals.append(f"bounds registered for {dataset} are for {valid}; this study has {asked}")
        families = list(dict.fromkeys(map(family_of, entries)))
        for family in families:
            if owners.setdefault(family, file) != file:
                raise ValueError(
                    f"{shown(file)}: a family must be the registry's own; {family} is one of {shown(owners[family])}"
                    " (start the ids with other letters: X1, INK2)"
                )
        titles |= {family: named.get(family, "") for family in families}
        claims |= _claims(file, entries, "" if refused else dataset, bounds, asked)
    sharing = [claim.family if error_rate == FAMILY else STUDY for claim in claims.values() if _is_judged(claim)]
    claims = {
        name: replace(claim, level=family_level(max(1, sharing.count(claim.family if error_rate == FAMILY else STUDY))))
        for name, claim in claims.items()
    }
    return Registry(claims, digest(*order), titles, bounds, error_rate, "; ".join(refusals))


def _is_judged(claim: Claim) -> bool:
    return claim.bound is not None and not claim.reported


def _claims(
    file: Path, entries: Mapping[str, Any], dataset: str, bounds: Bounds | None, protocol: "Valid"
) -> dict[str, Claim]:
    settable = not any(dataset in entry for entry in entries.values())
    claims = {}
    for name, entry in entries.items():
        no_effect = Bound() if "reported" in entry else _no_effect(entry["no_effect"])
        assert no_effect is not None
        if "reported" in entry or (settable and bounds is None):
            stands = Standing(no_effect)
        elif settable and bounds is not None:
            stands = bounds.standing(name, no_effect, entry["kind"])
        else:
            stands = standing(entry.get(dataset), f"no bound is registered for {dataset}")
        claims[name] = Claim(
            name,
            entry["kind"],
            protocol.fill(entry["sentence"]),
            protocol.fill(entry["estimand"]),
            entry["source"],
            no_effect,
            stands.bound,
            0.0,
            stands.registered,
            stands.pilot,
            stands.unregistered,
            entry.get("untested", ""),
            entry.get("reported", ""),
            entry.get("outside", ""),
            entry.get("needs", ""),
            file,
            settable,
            {key: entry[key] for key in ("sentence", "estimand")},
        )
    return claims


@dataclass(frozen=True)
class Valid:
    """The attack budget, in pixel intensity, and the draws of an image that bounds are valid for."""

    budget: float = GREY
    draws: int = DRAWS

    def __str__(self) -> str:
        """In words."""
        return f"an attack budget of {intensity(self.budget)} and {counted(self.draws, 'draw')}"

    def fill(self, text: str) -> str:
        """A sentence with sizes in place of "{budget}", "{1.5 budget}", "{draws}" and the like."""

        def size(match: re.Match[str]) -> str:
            number = float(match[1] or 1)
            return intensity(number * self.budget) if match[2] == "budget" else f"{int(number * self.draws)}"

        return _SIZE.sub(size, text)


def _valid(name: str, entry: Any) -> Valid:
    """What `[protocols]` says of a data set; raises ValueError where it can't be read."""
    try:
        budget, draws = budget_of(str(entry["budget"])), entry["draws"]
        if type(draws) is not int or draws < 1 or len(entry) != 2:
            raise ValueError(entry)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f'[protocols] must have lines as {name} = {{ budget = "8/255", draws = 10 }}; got {entry!r}'
        ) from None
    return Valid(budget, draws)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, str], dict[str, Valid]]:
    """The entries of a registry by claim, checked, the titles of its families, and what its bounds are valid for."""
    entries = read_toml(file)
    titles, protocols = (entries.pop(name, {}) for name in _TABLES)
    if not isinstance(protocols, dict):
        raise ValueError(f"{shown(file)}: [protocols] must be a table of data sets; got {protocols!r}")
    try:
        valid = {name: _valid(name, entry) for name, entry in protocols.items()}
    except ValueError as error:
        raise ValueError(f"{shown(file)}: {error}") from None
    for name, entry in entries.items():
        problems = _problems(name, entry, file)
        if problems:
            raise ValueError(f"{shown(file)}, claim {name}: {'; '.join(problems)}")
    unknown = sorted(set(titles) - set(map(family_of, entries))) if isinstance(titles, dict) else ["[families]"]
    if unknown:
        raise ValueError(f"{shown(file)}: families must give the titles of families that have claims; got {unknown}")
    return entries, titles, valid


def _no_effect(text: str) -> Bound | None:
    """The bound that a text such as "> 0.5" or "in 0.4 0.6" stands for; None where it stands for none."""
    match = re.fullmatch(rf"([<>]) ({_NUMBER})|in ({_NUMBER}) ({_NUMBER})", text)
    if match is None:
        return None
    direction, value, low, high = match.groups()
    if direction is None:
        return Bound(float(low), float(high)) if float(low) < float(high) else None
    return Bound(low=float(value)) if direction == ">" else Bound(high=float(value))


def _problems(name: str, entry: Any, file: Path) -> list[str]:
    if not isinstance(entry, dict):
        return [f"a claim must be a table; got {entry!r}"]
    problems = (
        [] if re.fullmatch(r"[A-Z]+\d+[a-z]?", name) else ["an id must be letters and a number, as in X1 or INK2a"]
    )
    datasets = {key for key, value in entry.items() if key not in _TEXTS and isinstance(value, dict)}
    if file == REGISTRY:
        datasets &= _DATASETS
    problems += [f"unknown key {key}" for key in sorted(set(entry) - _TEXTS - datasets)]
    needed = {"kind", "sentence", "estimand", "source"} | (set() if "reported" in entry else {"no_effect"})
    problems += [f"no {key}" for key in sorted(needed - set(entry))]
    texts = {key: entry[key] for key in sorted(_TEXTS & set(entry))}
    problems += [f"{key} must be a text; got {value!r}" for key, value in texts.items() if not isinstance(value, str)]
    if "reported" in entry and (extra := sorted({"no_effect", *datasets} & set(entry))):
        problems.append(f"a claim that is reported and not judged has no {', '.join(extra)}")
    if entry.get("needs", BACKGROUND) != BACKGROUND:
        problems.append(f"needs must be {BACKGROUND!r}; got {entry['needs']!r}")
    if entry.get("kind") not in KINDS:
        problems.append(f"kind must be one of {', '.join(KINDS)}; got {entry.get('kind')}")
    no_effect = entry.get("no_effect")
    effect = _no_effect(no_effect) if isinstance(no_effect, str) else None
    if isinstance(no_effect, str) and effect is None:
        problems.append(f'no_effect must be like "> 0.5", "< 0" or "in 0.4 0.6"; got {no_effect!r}')
    for dataset in sorted(datasets):
        malformed = problems_of(entry[dataset], dataset)
        bound = None if malformed else standing(entry[dataset], "").bound
        amiss = "" if bound is None or effect is None else bound.amiss(effect, entry.get("kind", ""))
        problems += malformed + ([f"{dataset}: {amiss}"] if amiss else [])
    return problems
