"""E5 to E7 and B6 to B8: how well each judge's confidence is calibrated, and what refusing buys."""

from typing import Any, Literal

import numpy as np

from vaecore import brier_parts, calibrated_ece, ece, reliability
from vaecore.suite.statistics.estimates import Estimate, aurc, mean, smooth
from vaecore.suite.statistics.intervals import interval
from vaecore.suite.study.conditions import CLEAN, FGSM, LBFGS, MIX, NOISY, ROTATED, Condition
from vaecore.suite.study.decisions import (
    ALL,
    ALONE,
    ASKED,
    CLASSES,
    DECISIONS,
    JUDGES,
    MEAN_SCALED,
    PLAIN,
    SCALED,
    outsiders,
)
from vaecore.suite.study.study import Study, TooFewError
from vaecore.suite.study.tables import Table
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import seed_for

LEVEL = 0.95  # of intervals that describe and decide nothing
BINS = 15
DRAWS = 50  # of all answers for the ECE of perfect calibration, in each run; its error is then a few percent
DRAWN = (PLAIN, SCALED, MEAN_SCALED, ALL)  # judges in the reliability diagrams
FIGURES = (CLEAN, ROTATED(45), NOISY(1.5), FGSM(1), LBFGS, MIX)  # conditions in the figures
COVERAGES = tuple(round(0.05 * k, 2) for k in range(1, 21))
# What images are refused by, and whose answer the rest get.
REFUSED_BY = {"confidence": PLAIN, "disagreement": PLAIN, "mse": PLAIN, ALL: ALL, MEAN_SCALED: MEAN_SCALED}
EQUAL: tuple[Literal["width", "mass"], ...] = ("width", "mass")


def doubt_and_wrong(table: Table, by: str) -> tuple[Any, Any]:
    """What images are refused by, and whether the answer is wrong; both (runs, images)."""
    wrong = ~table[f"{REFUSED_BY[by]}/right"]
    if by in ("disagreement", "mse"):
        return table[by].astype(np.float64), wrong
    return 1 - table[f"{REFUSED_BY[by]}/confidence"], wrong


def area(table: Table, by: str) -> Estimate:
    """Area under the risk-coverage curve."""
    return aurc(*doubt_and_wrong(table, by))


def tasks(study: Study) -> list[Task]:
    """All that the section shows."""
    return [task for condition in ASKED for task in DECISIONS.tasks(study.setup, condition)]


def section(study: Study) -> dict[str, Any] | None:
    """Measures of every judge under every condition, reliability diagrams and risk-coverage curves, as plain values.

    None where finished models came without training images, as there is nothing to fit a judge on.
    """
    setup = study.setup
    if setup.training is None:
        return None
    tables = {setup.protocol.name(condition): _table(study, condition) for condition in ASKED}
    judged = {name: [judge for judge in JUDGES if _concluded(table, judge)] for name, table in tables.items()}
    return {
        "held_out": len(setup.held_out(setup.first_seed)),
        "outsiders": outsiders(setup),
        "mix": setup.protocol.name(MIX),
        "bins": BINS,
        "figures": [setup.protocol.name(condition) for condition in FIGURES],
        "images": {name: table["success"].shape[1] for name, table in tables.items()},
        "measures": {
            name: {judge: _measures(table, judge) for judge in judged[name]} for name, table in tables.items()
        },
        "reliability": {
            name: {judge: _diagram(table, judge) for judge in DRAWN if judge in judged[name]}
            for name, table in tables.items()
        },
        "refusing": {
            name: {by: _curve(table, by) for by in REFUSED_BY if REFUSED_BY[by] in judged[name]}
            for name, table in tables.items()
        },
    }


def _table(study: Study, condition: Condition) -> Table:
    """As claims look at it; where an attack never succeeds, at all images."""
    try:
        table = study.paired(condition, of=DECISIONS)[0]
        _ = table.columns
    except TooFewError:
        return study.table(condition, of=DECISIONS)
    return table


def _concluded(table: Table, judge: str) -> bool:
    """Whether a judge was asked about all images, and answered."""
    confidence = table.columns.get(f"{judge}/confidence")
    return confidence is not None and confidence.shape == table["success"].shape and bool(np.isfinite(confidence).all())


def _measures(table: Table, judge: str) -> dict[str, Any]:
    """Of being right, and where the judge is of CLASSES and all images have a label of all classes too."""
    right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
    nll, brier = _shown(mean(table[f"{judge}/nll"])), _shown(mean((confidence - right) ** 2, limits=(0, 1)))
    measures: dict[str, Any] = {"accuracy": _shown(mean(right, limits=(0, 1))), "nll": nll, "brier": brier}
    parts = [vars(brier_parts(*run, bins=BINS)) for run in zip(confidence, right, strict=True)]
    measures["brier_parts"] = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    for equal in EQUAL:
        errors = [ece(*run, bins=BINS, equal=equal) for run in zip(confidence, right, strict=True)]
        calibrated = [
            calibrated_ece(run, bins=BINS, equal=equal, draws=DRAWS, seed=seed_for(f"ece/{judge}", number))
            for number, run in enumerate(confidence)
        ]
        spread = {"mean": float(np.mean(errors)), "least": min(errors), "most": max(errors)}
        measures[f"ece_{equal}"] = spread | {"calibrated": float(np.mean(calibrated))}
    measures["aurc"] = _shown(aurc(1 - confidence, ~right))
    if judge in CLASSES and np.isfinite(table[f"{judge}/class-nll"]).all():
        measures["class_nll"] = _shown(mean(table[f"{judge}/class-nll"]))
        measures["class_brier"] = _shown(mean(table[f"{judge}/class-brier"], limits=(0, 2)))
    if judge not in (*CLASSES, ALONE):
        measures["nll_added"] = _shown(mean(table[f"{judge}/nll"] - table[f"{ALONE}/nll"]))
    return measures


def _diagram(table: Table, judge: str) -> list[dict[str, float]]:
    """Bins of equal width that hold images, all runs together: confidence, accuracy with interval, images a run."""
    right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
    rows = []
    for part in reliability(confidence.ravel(), right.ravel(), bins=BINS):
        first = part.low == 0
        member = (confidence > part.low) & (confidence <= part.high) | (first & (confidence == 0))
        accuracy = smooth(
            [right * member, member],
            lambda means: means[0] / means[1],
            limits=(0, 1),
            count=max(1, part.count // len(right)),
        )
        counts = {"count": part.count, "images": part.count / len(right)}
        rows.append({"confidence": part.confidence, **counts, **_shown(accuracy)})
    return rows


def _curve(table: Table, by: str) -> dict[str, Any]:
    """Risk at each coverage, with an interval that takes the threshold as given; and the area."""
    doubt, wrong = doubt_and_wrong(table, by)
    images, rows = doubt.shape[1], []
    for coverage in COVERAGES:
        answered = max(1, round(coverage * images))
        threshold = np.sort(doubt, axis=1)[:, answered - 1 : answered]
        member = doubt <= threshold
        risk = smooth([wrong * member, member], lambda means: means[0] / means[1], limits=(0, 1), count=answered)
        rows.append({"coverage": float(member.mean())} | _shown(risk))
    return {"area": _shown(area(table, by)), "curve": rows}


def _shown(estimate: Estimate) -> dict[str, float]:
    shown = interval(estimate, LEVEL)
    return {"estimate": shown.estimate, "low": shown.low, "high": shown.high}
