"""Families A and B, and E1 to E4: each condition, distinct labels, error against confidence, the contact sheet."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vaecore.suite.images import pack
from vaecore.suite.statistics.columns import Column
from vaecore.suite.statistics.estimates import Estimate, mean, smooth
from vaecore.suite.statistics.intervals import interval
from vaecore.suite.study.conditions import CLEAN, FGSM, GAUSSIAN, JOINT, LBFGS, SIGN, UNIFORM, Condition
from vaecore.suite.study.contact_sheet import SHEET, sheet_tasks
from vaecore.suite.study.study import Study, TooFewError

BINS = 20
LEVEL = 0.95  # of intervals that describe and decide nothing
# Conditions whose distinct labels are drawn: attacks above, noise below.
PANELS = (CLEAN, FGSM(0.5), FGSM(1), LBFGS, JOINT(1.5), UNIFORM(1), SIGN(0.5), SIGN(1), GAUSSIAN)


def conditions(study: Study, chosen: Sequence[Condition]) -> dict[str, Any]:
    """What the study measured under each condition; those of which fewer than two images are left are left out."""
    shown = {}
    for condition in chosen:
        try:
            shown[study.setup.protocol.name(condition)] = _of_condition(study, condition)
        except TooFewError:
            continue
    return shown


def _of_condition(study: Study, condition: Condition) -> dict[str, Any]:
    table, every = study.paired(condition)[0], study.table(condition)
    distinct, success = table.distinct, every["success"]
    bars = [interval(mean(distinct == count), LEVEL) for count in range(1, study.setup.protocol.draws + 1)]
    protocol = study.setup.protocol
    return {
        "title": protocol.title(condition),
        "noise": not condition.kind.knows and condition != CLEAN,
        "images": distinct.shape[1],
        "accuracy": float(1 - table.wrong.mean()),
        "success": float(success.mean()),
        "unsuccessful": int((~success).sum()),
        "l2": float(table["l2"].mean()),
        "consistent": float(table.consistent.mean()),
        "mse": float(table.mse.mean()),
        "kl": float(table["kl"].mean()),
        "distinct_labels": [{"share": bar.estimate, "low": bar.low, "high": bar.high} for bar in bars],
    }


def error_by_confidence(study: Study) -> list[dict[str, Any]]:
    """Mean MSE of clean images in equal bins of confidence, the last one closed, with an interval and a count."""
    clean = study.table(CLEAN)
    error = clean.mse
    number = np.minimum((clean["confidence"] * BINS).astype(int), BINS - 1)
    rows = []
    for k in range(BINS):
        member = (number == k).astype(float)
        images = int(member.sum())
        within = interval(_mean_within(error, member, images // len(member)), LEVEL)
        ends = {"from": k / BINS, "to": (k + 1) / BINS}
        rows.append({**ends, "count": images, "mse": within.estimate, "low": within.low, "high": within.high})
    return rows


def _mean_within(values: Column, member: Column, images: int) -> Estimate:
    return smooth([values * member, member], lambda means: means[0] / means[1], count=images)


def contact_sheet(study: Study) -> dict[str, Any]:
    """For the first run and each condition: images and their draws, the label that each is given, and success."""
    setup = study.setup
    tasks = sheet_tasks(setup)
    rows = []
    for condition, sheet in zip(SHEET, study.plan.results(tasks, "contact sheet"), strict=True):
        rows.append(
            {
                "condition": setup.protocol.name(condition),
                "title": setup.protocol.title(condition),
                "pixels": pack(sheet["images"].numpy()),
                "label": sheet["label"].tolist(),
                "success": sheet["success"].tolist(),
                "draws": pack(sheet["draws"].flatten(0, 1).numpy()),
                "draw_label": sheet["draw_label"].tolist(),
            }
        )
    indices = setup.indices[: len(rows[0]["label"])]
    assert setup.test.labels is not None
    return {"labels": setup.test.labels[indices].tolist(), "indices": indices.tolist(), "rows": rows}
