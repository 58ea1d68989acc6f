"""Can the attacks be believed? Flags on every result, and the trials of the adaptive attacker."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vaecore.suite.statistics.estimates import beats
from vaecore.suite.study.conditions import FGSM, SIZES, Condition
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.study import Study
from vaecore.suite.study.tasks import Task
from vaecore.suite.study.trials import Trial, sweeps, trial_tasks, weaker
from vaecore.suite.text import counted
from vaecore.toolkit import flag_warnings

Wins = NDArray[np.bool_]


def section(study: Study) -> dict[str, Any]:
    """Success of each trial, sweep by sweep, and of the attacks that know less beside those that know more."""
    wins, protocol = won(study, trial_tasks(study.setup)), study.setup.protocol
    return {
        "trials": {name: [_shown(trial, wins) for trial in row] for name, row in sweeps(protocol).items()},
        "weaker_attacks": [[_shown(trial, wins) for trial in pair] for pair in weaker(protocol)],
    }


def flag_tasks(setup: Setup, conditions: Sequence[Condition]) -> dict[Trial, Task]:
    """The trials that flags of these conditions are raised by: none where no attack knows the VAE."""
    return trial_tasks(setup) if any("vae" in condition.kind.knows for condition in conditions) else {}


def won(study: Study, tasks: Mapping[Trial, Task]) -> dict[Trial, Wins]:
    """Which images each trial wins."""
    results = study.plan.results([*tasks.values()], "trials of the attacks")
    return {trial: np.asarray(result["won"].numpy()) for trial, result in zip(tasks, results, strict=True)}


def flags(study: Study, conditions: Sequence[Condition]) -> list[str]:
    """What casts doubt on the attacks of these conditions, in words; empty where nothing does."""
    protocol = study.setup.protocol
    lines = [
        f"{protocol.name(condition)}: {line}" for condition in conditions for line in _of_condition(study, condition)
    ]
    sizes = [FGSM(size) for size in SIZES if FGSM(size) in conditions]
    lines += _falls([protocol.name(size) for size in sizes], [_success(study, size) for size in sizes])
    trials = flag_tasks(study.setup, conditions)
    if not trials:
        return lines
    wins = won(study, trials)
    for name, row in sweeps(protocol).items():
        lines += _falls(row, [wins[trial] for trial in row])
        if name.startswith("epsilon") and not wins[row[-1]].all():
            lines.append(f"{row[-1]} wins {wins[row[-1]].mean():.0%} only: with so much room it must win every image")
    for weak, strong in weaker(protocol):
        if beats(wins[weak], wins[strong]):
            alone = counted((wins[weak] & ~wins[strong]).sum(), "image", "d")
            lines.append(
                f"{weak} wins {wins[weak].mean():.0%}, {strong} {wins[strong].mean():.0%}: an attack that knows less"
                f" must not be better; {alone} only it wins (are gradients masked?)"
            )
    return lines


def _success(study: Study, condition: Condition) -> Wins:
    return np.asarray(study.table(condition).columns["success"].ravel())


def _falls(names: Sequence[object], wins: Sequence[Wins]) -> list[str]:
    return [
        f"success falls from {less.mean():.0%} to {more.mean():.0%} with more effort: {milder}, then {stronger}"
        for (milder, less), (stronger, more) in pairwise(zip(names, wins, strict=True))
        if beats(less, more)
    ]


def _of_condition(study: Study, condition: Condition) -> list[str]:
    columns = study.table(condition).columns
    lines = flag_warnings(torch.from_numpy(columns["flags"]).flatten())
    failed = int((~columns["success"]).sum()) if condition.attack is not None else 0
    return lines + (
        [f"{failed} of {columns['success'].size} images: the attack did not reach its aim"] if failed else []
    )


def _shown(trial: Trial, wins: Mapping[Trial, Wins]) -> dict[str, Any]:
    images = wins[trial]
    return {"name": str(trial), **asdict(trial), "success": float(images.mean()), "images": len(images)}
