"""Families A and B, and E1 to E4: each condition, distinct labels, error against confidence, the contact sheet."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from vaecore.suite.images import pack
from vaecore.suite.statistics.columns import Column
from vaecore.suite.statistics.estimates import Estimate, auroc, mean, ratio, smooth
from vaecore.suite.statistics.intervals import interval
from vaecore.suite.study.alarms import RAISED
from vaecore.suite.study.conditions import (
    CLEAN,
    CONFIDENT,
    EVADE,
    EVADE_KNOWN,
    EVADE_MAGNET,
    FGSM,
    GAUSSIAN,
    GAUSSIAN_CONFIDENT,
    JOINT,
    LBFGS,
    SIGN,
    SIZES,
    UNIFORM,
    Condition,
)
from vaecore.suite.study.contact_sheet import SHEET, sheet_tasks
from vaecore.suite.study.kinds import FALSE_ALARMS, all_alarms
from vaecore.suite.study.study import Study, TooFewError
from vaecore.suite.study.tables import Table
from vaecore.suite.study.tasks import Task

BINS = 20
LEVEL = 0.95  # of intervals that describe and decide nothing
# Conditions whose distinct labels are drawn: attacks above, noise below.
PANELS = (CLEAN, FGSM(0.5), FGSM(1), LBFGS, JOINT(1.5), UNIFORM(1), SIGN(0.5), SIGN(1), GAUSSIAN)
# Detectors whose AUROC is shown, and their columns in a `Table`; the last one where images have a background.
MARKS = "pixels not zero"
SIGNALS = {
    "count": "distinct",
    "disagreement": "disagreement",
    "max-softmax": "doubt",
    "MSE": "mse",
    "MagNet's error": "magnet_error",
    "MagNet's divergence": "magnet_divergence",
    MARKS: "marks",
}
EVADING = (JOINT(1.5), EVADE(1), EVADE(1.5), EVADE_KNOWN(1.5), EVADE_MAGNET(1.5))  # attackers whose evasion is shown


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


def tasks(study: Study) -> list[Task]:
    """What the section shows beside the evidence of the conditions."""
    setup = study.setup
    if setup.training is None:
        return []
    return [task for condition in (CLEAN, *EVADING) for task in RAISED.tasks(setup, condition)]


def by_size(study: Study) -> list[dict[str, Any]]:
    """Consistent share under FGSM and sign noise of each size, and how much of FGSM's fall such noise explains.

    The first row is of clean images; there is nothing to explain there.
    """
    clean_share = _shown(mean(study.table(CLEAN).consistent))
    rows: list[dict[str, Any]] = [{"epsilon": 0.0, "fgsm": clean_share, "sign": clean_share, "share": None}]
    for size in SIZES:
        tables = study.paired(CLEAN, SIGN(size), FGSM(size))
        clean, noisy, attacked = (table.consistent.astype(float) for table in tables)
        measured = {"fgsm": mean(attacked), "sign": mean(noisy), "share": ratio(clean - noisy, clean - attacked)}
        epsilon = study.setup.protocol.size(FGSM(size))
        rows.append({"epsilon": epsilon, **{name: _shown(estimate) for name, estimate in measured.items()}})
    return rows


def signals(study: Study) -> list[dict[str, Any]]:
    """AUROC of each of SIGNALS under every condition: against clean images, against noise as large, on successes.

    failed: share of images on which the attack failed, which are among those of the first two.
    """
    rows = []
    for condition in study.setup.conditions:
        if condition == CLEAN:
            continue
        with suppress(TooFewError):
            name = study.setup.protocol.name(condition)
            row: dict[str, Any] = {"condition": name, "clean": _aurocs(study, CLEAN, condition)}
            noise = _noise_of(condition)
            row["noise"] = None if noise is None else _aurocs(study, noise, condition)
            row["failed"] = study.paired(condition)[0].origin.failed
            row["successes"] = None
            if row["failed"]:
                with suppress(TooFewError):
                    row["successes"] = _aurocs(study, CLEAN, condition, reached=True)
            rows.append(row)
    return rows


def _noise_of(condition: Condition) -> Condition | None:
    """Noise as large as an attack, where there is such a condition."""
    if condition.kind is FGSM:
        return SIGN(condition.size)
    return {LBFGS: GAUSSIAN, CONFIDENT: GAUSSIAN_CONFIDENT}.get(condition)


def _aurocs(study: Study, inside: Condition, condition: Condition, *, reached: bool = False) -> dict[str, float]:
    low, high = study.paired(inside, condition, reached=reached)
    shown = SIGNALS if study.setup.background else {name: SIGNALS[name] for name in SIGNALS if name != MARKS}
    columns = {name: (getattr(low, column), getattr(high, column)) for name, column in shown.items()}
    return {name: auroc(*pair, paired=True).value for name, pair in columns.items()}


def evasion(study: Study) -> dict[str, Any] | None:
    """How often each alarm is raised on clean images, and how often adaptive attackers fool and raise none.

    None where there are no images held out to set thresholds by.
    """
    if study.setup.training is None:
        return None
    clean = study.table(CLEAN, of=RAISED)
    alarms = [name for name in clean.columns if name != "wrong"]
    groups = {alarm: [alarm] for alarm in alarms} | {f"all-{rate:g}": all_alarms(rate) for rate in FALSE_ALARMS}
    attacked = {}
    for condition in EVADING:
        table = study.table(condition, of=RAISED)
        passing = {name: ~_any(table, group) & table["wrong"] for name, group in groups.items()}
        attacked[study.setup.protocol.name(condition)] = {name: _shown(mean(own)) for name, own in passing.items()}
    false = {name: _shown(mean(_any(clean, group))) for name, group in groups.items()}
    return {"groups": groups, "false": false, "attacked": attacked}


def _any(table: Table, alarms: Sequence[str]) -> Any:
    return np.any([table[alarm] for alarm in alarms], axis=0)


def _shown(estimate: Estimate) -> dict[str, float]:
    shown = interval(estimate, LEVEL)
    return {"estimate": shown.estimate, "low": shown.low, "high": shown.high}


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
