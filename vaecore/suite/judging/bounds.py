"""Bounds for a user's own data, read from a file that a pilot wrote (`judging/pilot.py`)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from vaecore.suite.facts import Facts
from vaecore.suite.judging.bound import Bound, Standing, problems_of, read_toml, standing
from vaecore.suite.text import intensity
from vaecore.toolkit import digest

_ROUNDING = 1e-9  # of a budget that is a fraction
_PILOT = {
    "dataset": str,
    "test_digest": str,
    "train_digest": str,
    "profile": str,
    "precision": str,
    "budget": float,
    "draws": int,
    "seeds": list,
    "vae": str,
    "classifier": str,
    "registry": str,
    "date": date,
}


@dataclass(frozen=True)
class Bounds:
    """A file of bounds: its pilot, and an entry for each claim that it concluded.

    pilot: data set and digests, profile, precision, budget, draws, seeds, models, registry, date. entries: as in a
    registry, for each claim.
    """

    file: Path
    digest: str
    pilot: Mapping[str, Any]
    entries: Mapping[str, Any]

    def standing(self, claim: str, no_effect: Bound, kind: str) -> Standing:
        """What is registered of a claim of a kind; raises ValueError where that can't be its bound."""
        registered = standing(self.entries.get(claim), f"the pilot of {self.file} did not conclude it")
        if registered.bound is not None and (problem := registered.bound.amiss(no_effect, kind)):
            raise ValueError(f"{self.file}, claim {claim}: {problem}")
        return registered

    def notes(self, facts: Facts, registry: str, claims: Collection[str], error_rate: str) -> list[str]:
        """What differs from the pilot's circumstances, in words; registry: its digest. claims: their ids."""
        pilot = self.pilot
        notes = []
        for kind, name in (("vae", facts.vae), ("classifier", facts.classifier)):
            if pilot[kind] != name:
                notes.append(f"the bounds were set on another {kind}: {pilot[kind]}")
        for what, value in (("profile", facts.profile), ("precision", facts.precision)):
            if pilot[what] != value:
                notes.append(f"the bounds were set in another {what}: {pilot[what]}")
        if (rate := pilot.get("error_rate", "family")) != error_rate:  # older files do not say
            notes.append(f"the power at the bounds was that of another error rate: 0.05 by {rate}")
        if pilot["registry"] != registry:
            notes.append("the bounds were set under another registry: claims may have changed since")
        unknown = sorted(set(self.entries) - set(claims))
        if unknown:
            notes.append(f"bounds of claims that are not looked at: {', '.join(unknown)}")
        return notes


def read_bounds(file: Path, facts: Facts) -> Bounds:
    """Read and check the bounds for a study's data; raises ValueError where they are malformed, or for other data."""
    content = read_toml(file)
    pilot, entries = content.get("pilot"), content.get("bounds")
    if not isinstance(pilot, dict) or not isinstance(entries, dict) or set(content) != {"pilot", "bounds"}:
        raise ValueError(
            f"{file} must hold the tables `pilot` and `bounds`; got {', '.join(content) or 'nothing'}"
            " (written by `--pilot --bounds`?)"
        )
    wrong = [key for key, kind in _PILOT.items() if not isinstance(pilot.get(key), kind)]
    if wrong:
        raise ValueError(f"{file}: `pilot` must say {', '.join(wrong)}; it does not")
    for name, entry in entries.items():
        if problems := problems_of(entry, name):
            raise ValueError(f"{file}: {'; '.join(problems)}")
    for kind, images_digest in (("test", facts.test_digest), ("train", facts.train_digest or "")):
        if pilot[f"{kind}_digest"] != images_digest and "" not in (pilot[f"{kind}_digest"], images_digest):
            raise ValueError(
                f"{file} must be for these {kind} images; it was set on {pilot['dataset']} of digest"
                f" {pilot[f'{kind}_digest'][:12]}, these are {facts.dataset} of digest {images_digest[:12]} (other data"
                " need a pilot of their own)"
            )
    for what, key, option in (("attack budget", "budget", "--epsilon"), ("number of draws", "draws", "--draws")):
        was, now = pilot[key], getattr(facts, key)
        if abs(was - now) > _ROUNDING:
            raise ValueError(
                f"{file} must be for this {what}; it was set with {intensity(was)}, this study has {intensity(now)}"
                f" ({option} {was!r}, or a pilot of its own)"
            )
    return Bounds(file, digest(file), pilot, entries)
