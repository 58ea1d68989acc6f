"""Bounds for a user's own data: what a pilot writes to a file, once, and what later runs are judged by.

The rule is that for `digits`: half-way between no effect and the pilot's mean, rounded towards no effect; a claim whose
power at that bound is below LEAST_POWER gets none. Only the training seeds of a pilot are its own: its test images are
those of the runs that its bounds will judge, as with `digits`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from vaecore._store import digest, write_atomically
from vaecore.suite.judging.registry import Bound, Claim, Registry, Standing, problems_of, read_toml, standing
from vaecore.suite.judging.verdict import Verdict
from vaecore.suite.study.study import Study

LEAST_POWER = 0.8
_HEAD = """\
# Bounds that a pilot has set: `pytest ... --bounds FILE` judges by them. They are registered once, as a bound that is
# moved after a result is no bound. `unregistered` says why a claim has none.

"""
_PILOT = {
    "dataset": str,
    "test_digest": str,
    "train_digest": str,
    "profile": str,
    "precision": str,
    "seeds": list,
    "vae": str,
    "classifier": str,
    "registry": str,
    "date": date,
}


@dataclass(frozen=True)
class Bounds:
    """A file of bounds: what its pilot was, and what it says of each claim.

    pilot: data set and digests, profile, precision, seeds, models, registry, date. entries: as in a registry, for each
    claim.
    """

    file: Path
    digest: str
    pilot: Mapping[str, Any]
    entries: Mapping[str, Any]

    def standing(self, claim: str, no_effect: Bound) -> Standing:
        """What is registered of a claim; raises ValueError where the bound is not on the side that no effect has."""
        found = standing(self.entries.get(claim), f"the pilot of {self.file} did not conclude it")
        bound = found.bound
        if bound is not None and (
            math.isfinite(bound.low) != math.isfinite(no_effect.low)
            or math.isfinite(bound.high) != math.isfinite(no_effect.high)
        ):
            raise ValueError(f"{self.file}, claim {claim}: its bound must be like {no_effect}; got {bound}")
        return found

    def notes(self, study: Study, registry: Registry) -> list[str]:
        """What to mind where a study is judged by these bounds, in words."""
        pilot = self.pilot
        found = []
        for kind, name in (("vae", study.vae), ("classifier", study.classifier)):
            if pilot[kind] != (name or "reference"):
                found.append(f"the bounds were set on another {kind}: {pilot[kind]}")
        for what, value in (("profile", study.profile.name), ("precision", study.precision)):
            if pilot[what] != value:
                found.append(f"the bounds were set in another {what}: {pilot[what]}")
        if pilot["registry"] != registry.digest:
            found.append("the bounds were set under another registry: claims may have changed since")
        unknown = sorted(set(self.entries) - set(registry.claims))
        if unknown:
            found.append(f"bounds of claims that are not looked at: {', '.join(unknown)}")
        return found


def check_new(file: Path, study: Study, *, decisive: bool) -> None:
    """Raise ValueError where a pilot must not, or can't, set bounds in this file."""
    if file.exists():
        raise ValueError(
            f"{file} must be a new file; it is there already (bounds are registered once; to judge by it, leave out"
            " --pilot)"
        )
    if not file.absolute().parent.is_dir():
        raise ValueError(f"{file} must lie in a folder that exists; there is no {file.absolute().parent}")
    if study.fixed:
        raise ValueError(
            "--pilot --bounds must train models of its own; finished models would be judged by bounds set from the"
            " very same numbers (give callables seed -> module, or set bounds by the reference models)"
        )
    if not decisive:
        raise ValueError("--pilot --bounds needs two runs or more, and not the smoke profile, to tell how runs vary")


def read_bounds(file: Path, study: Study) -> Bounds:
    """Read and check the bounds for a study's data; raises ValueError where they are malformed, or for other data."""
    found = read_toml(file)
    pilot, entries = found.get("pilot"), found.get("bounds")
    if not isinstance(pilot, dict) or not isinstance(entries, dict) or set(found) != {"pilot", "bounds"}:
        raise ValueError(
            f"{file} must hold the tables `pilot` and `bounds`; got {', '.join(found) or 'nothing'}"
            " (written by `--pilot --bounds`?)"
        )
    wrong = [key for key, kind in _PILOT.items() if not isinstance(pilot.get(key), kind)]
    if wrong:
        raise ValueError(f"{file}: `pilot` must say {', '.join(wrong)}; it does not")
    for name, entry in entries.items():
        if problems := problems_of(entry, name):
            raise ValueError(f"{file}: {'; '.join(problems)}")
    for kind, seen in (("test", study.test.digest), ("train", _train_digest(study))):
        if pilot[f"{kind}_digest"] != seen and "" not in (pilot[f"{kind}_digest"], seen):
            raise ValueError(
                f"{file} must be for these {kind} images; it was set on {pilot['dataset']} of digest"
                f" {pilot[f'{kind}_digest'][:12]}, these are {study.test.name} of digest {seen[:12]} (other data need a"
                " pilot of their own)"
            )
    return Bounds(file, digest(file), pilot, entries)


def write_bounds(file: Path, study: Study, registry: Registry, verdicts: Sequence[Verdict]) -> str:
    """Write the bounds that a pilot's verdicts suggest; returns how many it set, in words."""
    today = datetime.now(UTC).date()
    entries = {}
    for verdict in verdicts:
        claim = registry.claims[verdict.claim]
        if claim.settable and not claim.reported:
            entries[claim.id] = _entry(claim, verdict, today)
    pilot = {
        "dataset": study.test.name,
        "test_digest": study.test.digest,
        "train_digest": _train_digest(study),
        "profile": study.profile.name,
        "precision": study.precision,
        "seeds": study.seeds,
        "vae": study.vae or "reference",
        "classifier": study.classifier or "reference",
        "registry": registry.digest,
        "date": today,
    }
    check_new(file, study, decisive=True)  # it may have been written since the pilot began
    write_atomically(file, (_HEAD + tomli_w.dumps({"pilot": pilot, "bounds": entries})).encode())
    none = sum("unregistered" in entry for entry in entries.values())
    return f"{len(entries) - none} claims with a bound, {none} without for want of power"


def _train_digest(study: Study) -> str:
    """Of the training images, empty where no model is trained on them."""
    return study.train.digest if None in (study.vae, study.classifier) else ""


def _entry(claim: Claim, verdict: Verdict, today: date) -> dict[str, Any]:
    bound = claim.suggested(verdict.estimate)
    spread = float(np.std(verdict.per_run, ddof=1))
    pilot = f"{verdict.estimate:.3f} (sd {spread:.3f}, {verdict.runs} runs)"
    if not verdict.spreads:
        return {"unregistered": f"no interval: {verdict.message.rpartition('no interval: ')[2]}", "date": today}
    if not verdict.power >= LEAST_POWER:
        return {"unregistered": f"power {verdict.power:.2f} at bound {bound}", "pilot": pilot, "date": today}
    ends = {"above": bound.low, "below": bound.high}
    known = {key: value for key, value in ends.items() if math.isfinite(value)}
    return {**known, "pilot": pilot, "power": round(verdict.power, 3), "date": today}
