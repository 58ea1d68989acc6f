"""Decisions: how well each judge's confidence is calibrated, and what refusing buys."""

from collections.abc import Mapping
from typing import Any

from vaecore.suite.report.markdown.parts import literal
from vaecore.suite.text import counted


def page(results: Mapping[str, Any]) -> str:
    """All measures as a Markdown page, one table for each condition."""
    results = literal(results)
    decisions = results["decisions"]
    about = (
        f"Means over {counted(len(results['seeds']), 'training run')} with 95% intervals over runs and images; ECE with"
        f" the least and the most of the runs, {decisions['bins']} bins, and behind it the ECE that perfect calibration"
        " would have for these confidences, which is not 0 as images are few. Temperatures and regressions are fitted"
        f" on {counted(decisions['held_out'], 'training image', 'd')} held out. NLL, Brier, ECE and AURC are of being"
        f" right; NLL and Brier of all classes stand behind. Half of {decisions['mix']} is from"
        f" {', '.join(decisions['outsiders'])}, where every answer is wrong."
    )
    lines = [f"# Whose confidence can be believed? {results['dataset']['name']}", "", about]
    for condition, judges in decisions["measures"].items():
        lines += [
            f"\n## {condition}, {counted(decisions['images'][condition], 'image', 'd')}\n",
            f"| judge | {' | '.join(_HEAD)} |",
        ]
        lines.append("|---|" + "---:|" * len(_HEAD))
        lines += [f"| {judge} | {' | '.join(_cells(measures))} |" for judge, measures in judges.items()]
    lines.append("\n![Accuracy against confidence](reliability.png)")
    lines.append("\n![Risk against coverage](risk-coverage.png)")
    return "\n".join(lines) + "\n"


_HEAD = (
    "accuracy",
    "NLL",
    "Brier",
    "= reliability - resolution + uncertainty + within",
    "ECE, equal width / if calibrated",
    "ECE, equal mass / if calibrated",
    "AURC",
    "NLL of classes",
    "Brier of classes",
    "NLL added to confidence alone",
)


def _cells(measures: Mapping[str, Any]) -> list[str]:
    def shown(name: str) -> str:
        if name not in measures:
            return "-"
        number = measures[name]
        if number["low"] is None:
            return f"{number['estimate']:.4f}"
        return f"{number['estimate']:.4f} [{number['low']:.4f}, {number['high']:.4f}]"

    def spread(name: str) -> str:
        return "{mean:.4f} ({least:.4f} to {most:.4f}) / {calibrated:.4f}".format(**measures[name])

    parts = "{reliability:.4f} - {resolution:.4f} + {uncertainty:.4f} + {within:.4f}".format(**measures["brier_parts"])
    errors = [spread("ece_width"), spread("ece_mass")]
    last = [shown(name) for name in ("aurc", "class_nll", "class_brier", "nll_added")]
    return [shown("accuracy"), shown("nll"), shown("brier"), parts, *errors, *last]
