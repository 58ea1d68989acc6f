"""Bounds that a pilot writes for a user's own data, once.

The rule is that for `digits`: half-way between no effect and the pilot's mean, rounded towards no effect; a claim whose
power at that bound is below LEAST_POWER gets none. A pilot has training seeds of its own. Its test images are those of
the runs that its bounds will judge, as with `digits`.
"""

import glob
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from vaecore.suite.facts import Facts
from vaecore.suite.judging.registry import Claim, Registry
from vaecore.suite.judging.verdict import NOT_JUDGED, Verdict
from vaecore.suite.text import counted
from vaecore.toolkit import sweep, write_atomically

LEAST_POWER = 0.8
_HEAD = """\
# Bounds that a pilot has set: `pytest ... --bounds FILE` judges by them. They are registered once, as a bound that is
# moved after a result is no bound. `unregistered` says why a claim has none.

"""


def check_new(file: Path, facts: Facts) -> None:
    """Raise ValueError where a pilot must not set bounds in this file, or can't."""
    if file.exists():
        raise ValueError(
            f"{file} must be a new file; it is there already (bounds are registered once; to judge by it, leave out"
            " --pilot)"
        )
    if not file.absolute().parent.is_dir():
        raise ValueError(f"{file} must lie in a folder that exists; there is no {file.absolute().parent}")
    if facts.fixed:
        raise ValueError(
            "--pilot --bounds must train models of its own; finished models would be judged by bounds set from the"
            " very same numbers (give callables seed -> module, or set bounds by the reference models)"
        )
    if facts.too_little:
        raise ValueError("--pilot --bounds needs two runs or more, and not the smoke profile, to tell how runs vary")


def write_bounds(file: Path, facts: Facts, registry: Registry, verdicts: Sequence[Verdict]) -> str:
    """Write the bounds that a pilot's verdicts suggest; returns how many it set, in words."""
    today = datetime.now(UTC).date()
    entries = {}
    for verdict in verdicts:
        claim = registry.claims[verdict.claim]
        if claim.settable and not claim.reported:
            entries[claim.id] = _entry(claim, verdict, today)
    pilot = {
        "dataset": facts.dataset,
        "test_digest": facts.test_digest,
        "train_digest": facts.train_digest or "",
        "profile": facts.profile,
        "precision": facts.precision,
        "budget": facts.budget,
        "draws": facts.draws,
        "seeds": list(facts.seeds),
        "vae": facts.vae,
        "classifier": facts.classifier,
        "registry": registry.digest,
        "error_rate": registry.error_rate,
        "date": today,
    }
    check_new(file, facts)  # it may have been written since the pilot began
    sweep(file.parent, glob.escape(file.name))
    write_atomically(file, (_HEAD + tomli_w.dumps({"pilot": pilot, "bounds": entries})).encode())
    none = sum("unregistered" in entry for entry in entries.values())
    return f"{counted(len(entries) - none, 'claim')} with a bound, {none} without for want of power"


def _entry(claim: Claim, verdict: Verdict, today: date) -> dict[str, Any]:
    bound = claim.suggested(verdict.estimate)
    spread = float(np.std(verdict.per_run, ddof=1))
    pilot = f"{verdict.estimate:.3f} (sd {spread:.3f}, {counted(verdict.runs, 'run')})"
    if verdict.verdict == NOT_JUDGED:
        return {"unregistered": f"{verdict.outcome}: {verdict.why}", "date": today}
    if not verdict.spreads:
        return {"unregistered": f"no interval: {verdict.message.rpartition('no interval: ')[2]}", "date": today}
    if not verdict.power >= LEAST_POWER:
        return {"unregistered": f"power {verdict.power:.2f} at bound {bound}", "pilot": pilot, "date": today}
    ends = {"above": bound.low, "below": bound.high}
    finite = {key: value for key, value in ends.items() if math.isfinite(value)}
    return {**finite, "pilot": pilot, "power": round(verdict.power, 3), "date": today}
