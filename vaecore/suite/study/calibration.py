"""What the report says of decisions: how well each judge's confidence is calibrated, and what refusing buys."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vaecore._calibration import Equal, brier_parts, ece, reliability
from vaecore.suite.statistics.intervals import Estimate, aurc, interval, mean, smooth
from vaecore.suite.study.decisions import ALL, ALONE, ASKED, CLASSES, JUDGES, MEAN_SCALED, MIX, PLAIN, SCALED
from vaecore.suite.study.draws import LBFGS, Table

if TYPE_CHECKING:
    from vaecore.suite.study.study import Study

LEVEL = 0.95  # of intervals that describe and decide nothing
BINS = 15
DRAWN = (PLAIN, SCALED, MEAN_SCALED, ALL)  # judges in the reliability diagrams
COVERAGES = tuple(round(0.05 * k, 2) for k in range(1, 21))
# What images are refused by, and whose answer the rest get.
REFUSED_BY = {"confidence": PLAIN, "disagreement": PLAIN, "mse": PLAIN, ALL: ALL, MEAN_SCALED: MEAN_SCALED}
EQUAL: tuple[Equal, ...] = ("width", "mass")


def page(results: Mapping[str, Any]) -> str:
    """All measures as a Markdown page, one table for each condition."""
    found = results["decisions"]
    about = (
        f"Means over {len(results['seeds'])} training runs with 95% intervals over runs and images; ECE with the least"
        f" and the most of the runs, {BINS} bins. Temperatures and regressions are fitted on {found['held_out']}"
        " training images held out. NLL, Brier, ECE and AURC are of being right; NLL and Brier of all classes stand"
        f" behind. Half of {MIX} is from {', '.join(found['outsiders'])}, where every answer is wrong."
    )
    lines = [f"# Whose confidence can be believed? {results['dataset']['name']}", "", about]
    for condition, judges in found["measures"].items():
        lines += [f"\n## {condition}, {found['images'][condition]} images\n", f"| judge | {' | '.join(_HEAD)} |"]
        lines.append("|---|" + "---:|" * len(_HEAD))
        lines += [f"| {judge} | {' | '.join(_cells(one))} |" for judge, one in judges.items()]
    lines.append("\n![Accuracy against confidence](reliability.png)")
    lines.append("\n![Risk against coverage](risk-coverage.png)")
    return "\n".join(lines) + "\n"


_HEAD = (
    "accuracy",
    "NLL",
    "Brier",
    "= reliability - resolution + uncertainty + within",
    "ECE, equal width",
    "ECE, equal mass",
    "AURC",
    "NLL of classes",
    "Brier of classes",
    "NLL added to confidence alone",
)


def _cells(one: Mapping[str, Any]) -> list[str]:
    def shown(name: str) -> str:
        if name not in one:
            return "-"
        number = one[name]
        if number["low"] is None:
            return f"{number['estimate']:.4f}"
        return f"{number['estimate']:.4f} [{number['low']:.4f}, {number['high']:.4f}]"

    def spread(name: str) -> str:
        return "{mean:.4f} ({least:.4f} to {most:.4f})".format(**one[name])

    parts = "{reliability:.4f} - {resolution:.4f} + {uncertainty:.4f} + {within:.4f}".format(**one["brier_parts"])
    errors = [spread("ece_width"), spread("ece_mass")]
    last = [shown(name) for name in ("aurc", "class_nll", "class_brier", "nll_added")]
    return [shown("accuracy"), shown("nll"), shown("brier"), parts, *errors, *last]


def doubt_and_wrong(table: Table, by: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """What images are refused by, and whether the answer is wrong; both (runs, images)."""
    wrong = ~table[f"{REFUSED_BY[by]}/right"]
    if by in ("disagreement", "mse"):
        return table[by].astype(np.float64), wrong
    return 1 - table[f"{REFUSED_BY[by]}/confidence"], wrong


def area(table: Table, by: str) -> Estimate:
    """Area under the risk-coverage curve."""
    return aurc(*doubt_and_wrong(table, by))


def gather(study: "Study") -> dict[str, Any] | None:
    """Measures of every judge under every condition, reliability diagrams and risk-coverage curves, as plain values.

    None where finished models came without training images, as there is nothing to fit a judge on.
    """
    if study.outside.train is None:
        return None
    tables = {condition: study.decisions.table(condition) for condition in ASKED}
    found = np.flatnonzero(tables[LBFGS]["found"].all(axis=0))
    if len(found) > 1:  # as claims look at L-BFGS; where it never succeeds, at all images
        tables[LBFGS] = tables[LBFGS].take(found)
    return {
        "held_out": len(study.held_out[0]),
        "outsiders": study.decisions.outsiders(),
        "images": {condition: table["found"].shape[1] for condition, table in tables.items()},
        "measures": {
            condition: {judge: _measures(table, judge) for judge in JUDGES if _concluded(table, judge)}
            for condition, table in tables.items()
        },
        "reliability": {
            condition: {judge: _diagram(table, judge) for judge in DRAWN if _concluded(table, judge)}
            for condition, table in tables.items()
        },
        "refusing": {
            condition: {by: _curve(table, by) for by in REFUSED_BY if _concluded(table, REFUSED_BY[by])}
            for condition, table in tables.items()
        },
    }


def _concluded(table: Table, judge: str) -> bool:
    return bool(np.isfinite(table[f"{judge}/confidence"]).all())


def _measures(table: Table, judge: str) -> dict[str, Any]:
    """Of being right, and where the judge is of CLASSES and all images have a label of all classes too."""
    right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
    nll, brier = _shown(mean(table[f"{judge}/nll"])), _shown(mean((confidence - right) ** 2, limits=(0, 1)))
    found: dict[str, Any] = {"accuracy": _shown(mean(right, limits=(0, 1))), "nll": nll, "brier": brier}
    parts = [vars(brier_parts(*one, bins=BINS)) for one in zip(confidence, right, strict=True)]
    found["brier_parts"] = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    for equal in EQUAL:
        errors = [ece(*one, bins=BINS, equal=equal) for one in zip(confidence, right, strict=True)]
        found[f"ece_{equal}"] = {"mean": float(np.mean(errors)), "least": min(errors), "most": max(errors)}
    found["aurc"] = _shown(aurc(1 - confidence, ~right))
    if judge in CLASSES and np.isfinite(table[f"{judge}/class-nll"]).all():
        found["class_nll"] = _shown(mean(table[f"{judge}/class-nll"]))
        found["class_brier"] = _shown(mean(table[f"{judge}/class-brier"], limits=(0, 2)))
    if judge not in (*CLASSES, ALONE):
        found["nll_added"] = _shown(mean(table[f"{judge}/nll"] - table[f"{ALONE}/nll"]))
    return found


def _diagram(table: Table, judge: str) -> list[dict[str, float]]:
    """Bins of equal width that hold images, all runs together: confidence, accuracy with interval, images a run."""
    right, confidence = table[f"{judge}/right"], table[f"{judge}/confidence"]
    rows = []
    for one in reliability(confidence.ravel(), right.ravel(), bins=BINS):
        first = one.low == 0
        member = (confidence > one.low) & (confidence <= one.high) | (first & (confidence == 0))
        accuracy = smooth(
            [right * member, member],
            lambda means: means[0] / means[1],
            limits=(0, 1),
            count=max(1, one.count // len(right)),
        )
        counts = {"count": one.count, "images": one.count / len(right)}
        rows.append({"low": one.low, "high": one.high, "confidence": one.confidence, **counts} | _shown(accuracy))
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
    found = interval(estimate, LEVEL)
    return {"estimate": found.estimate, "low": found.low, "high": found.high}
