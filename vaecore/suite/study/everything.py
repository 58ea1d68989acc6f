"""Everything that a whole report takes, computed at once: part by part, processes would wait at the end of each."""

from collections.abc import Callable
from typing import Any

from vaecore.suite.study import cleaning, decisions, outside
from vaecore.suite.study import trials as sanity
from vaecore.suite.study.draws import ADAPTIVE, CONDITIONS, LBFGS
from vaecore.suite.study.study import Study, evidence_of

Task = tuple[Any, ...]
"""A function of a module and what it takes besides the study."""


def compute(study: Study) -> None:
    """Have the store hold what the report of a study of reference models asks for, by the workers."""
    study.cleaning.train()
    numbers = range(len(study.runs))
    evidence: list[Task] = [
        (evidence_of, number, condition, *rows)
        for condition in sorted(CONDITIONS, key=_order)
        for number in numbers
        for rows in study.shards(study.count(condition))
    ]
    # What takes longest comes first, so that no process is left alone with it at the end.
    tasks = [*evidence, *sanity.tasks(), *cleaning.tasks(study), *outside.tasks(study), *decisions.tasks(study)]
    with study.timed("everything"), study.meter("evidence") as advance:
        study.each(_run, tasks, advance)


def _order(condition: str) -> tuple[bool, bool]:
    """The adaptive attacks, then L-BFGS, whose perturbations others imitate, then the rest."""
    return condition not in ADAPTIVE, not condition.startswith(LBFGS)


def _run(study: Study, function: Callable[..., object], *told: Any) -> None:
    function(study, *told)
