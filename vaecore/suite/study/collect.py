"""All that a report says of a study, as plain values: facts, what was measured, and sections of the families."""

import platform
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vaecore.suite.study.cleaning import CLEANED, CURVE, names
from vaecore.suite.study.conditions import (
    AWAY,
    HIDDEN,
    HIDDEN_BY,
    HOME,
    INSIDE,
    PURIFIED,
    SMOOTHED,
    WORST_CASE,
    Condition,
)
from vaecore.suite.study.contact_sheet import sheet_tasks
from vaecore.suite.study.decisions import ASKED
from vaecore.suite.study.draws import DRAWS
from vaecore.suite.study.sections import cleaning, consistency, decisions, outside, trials
from vaecore.suite.study.smoothing import SIGMAS
from vaecore.suite.study.study import Study, accuracy_tasks, digest_tasks
from vaecore.suite.study.tasks import Task
from vaecore.suite.study.trials import trial_tasks

_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "torchvision", "safetensors", "matplotlib", "pytest")


def tasks(study: Study) -> list[Task]:
    """All that `everything` asks for; what takes longest comes first, so that no process is left alone with it."""
    setup = study.setup
    conditions = sorted(
        setup.conditions, key=lambda condition: ("vae" not in condition.kind.knows, condition.attack is None)
    )
    return [
        *(task for condition in conditions for task in DRAWS.tasks(setup, condition)),
        *consistency.tasks(study),
        *trial_tasks(setup).values(),
        *cleaning.tasks(study),
        *outside.tasks(study),
        *([] if setup.training is None else decisions.tasks(study)),
        *sheet_tasks(setup),
        *accuracy_tasks(setup),
        *digest_tasks(setup),
    ]


def summary_tasks(study: Study, names: Collection[str]) -> list[Task]:
    """All that `looked_at` asks for, the accuracy of the classifiers, and digests of models."""
    setup = study.setup
    chosen, sets = _named(study, names)
    return [
        *(task for condition in chosen for task in DRAWS.tasks(setup, condition)),
        *trials.flag_tasks(setup, chosen).values(),
        *outside.matrix_tasks(setup, sets),
        *accuracy_tasks(setup),
        *digest_tasks(setup),
    ]


def looked_at(study: Study, names: Collection[str]) -> dict[str, Any]:
    """What there is to say of some conditions, by their full names: measures, flags, and the sets among them."""
    chosen, sets = _named(study, names)
    return {
        "conditions": consistency.conditions(study, chosen),
        "sanity_flags": trials.flags(study, chosen),
        "detection": {"cells": outside.matrix(study, sets)} if sets else None,
    }


def _named(study: Study, names: Collection[str]) -> tuple[list[Condition], list[Condition]]:
    """The protocol's conditions and the sets of some full names."""
    protocol = study.setup.protocol
    chosen = [condition for condition in study.setup.conditions if protocol.full_name(condition) in names]
    return chosen, [condition for condition in study.setup.sets.conditions if protocol.full_name(condition) in names]


def everything(study: Study) -> dict[str, Any]:
    """All sections."""
    every = study.setup.conditions
    return {
        "conditions": consistency.conditions(study, every),
        "panels": [study.setup.protocol.name(condition) for condition in consistency.PANELS],
        "by_size": consistency.by_size(study),
        "signals": consistency.signals(study),
        "evasion": consistency.evasion(study),
        "error_by_confidence": consistency.error_by_confidence(study),
        "sanity_flags": [*trials.flags(study, every), *cleaning.flags(study), *outside.flags(study)],
        **trials.section(study),
        "detection": outside.section(study),
        "cleaning": cleaning.section(study),
        "contact_sheet": consistency.contact_sheet(study),
        "decisions": decisions.section(study),
    }


def environment(study: Study) -> dict[str, Any]:
    """What the study ran on."""
    facts = study.facts
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": facts.threads,
        "workers": facts.workers,
        "gpu": facts.gpu,
        "packages": {name: version(name) for name in _PACKAGES},
    }


def threats(study: Study, names: Sequence[str]) -> dict[str, str]:
    """The threat model of each condition, by its full name; raises ValueError where there is none of that name."""
    from_name = {study.setup.protocol.full_name(condition): condition for condition in every_condition(study)}
    if unknown := [name for name in names if name not in from_name]:
        raise ValueError(f"conditions must be those of the study; got {', '.join(unknown)}")
    return {name: study.setup.protocol.threat(from_name[name]) for name in names}


def every_condition(study: Study) -> list[Condition]:
    """All conditions that a study knows."""
    purified = [PURIFIED(size, label=name) for name in names(study.setup) for size in CURVE]
    sets = [INSIDE]
    for one in study.setup.sets.conditions:
        label = one.label
        sets += [one, HIDDEN(HIDDEN_BY, label=label), HOME(label=label), AWAY(label=label)]
    others = [*(SMOOTHED(sigma) for sigma in SIGMAS), WORST_CASE(1.5)]
    return [*study.setup.conditions, *CLEANED, *purified, *others, *sets, *ASKED]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
