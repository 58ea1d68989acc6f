"""Family C: the matrix of scores and sets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vaecore.suite.report.markdown.parts import figures, literal, share
from vaecore.suite.text import counted, intensity

_GROUPS = {  # of sets, after OpenOOD v1.5 (Zhang et al. 2023), in the order of the tables
    "near": "images of the same kind as those inside, such as other characters, or photographs of other things",
    "far": "images of another kind, and noise",
    "covariate shift": "images inside, changed so that a person still reads their class",
    "own": "sets of the user's own",
}


def page(results: Mapping[str, Any]) -> str:
    """The matrix of scores and sets, one table for each measure, as a Markdown page."""
    results = literal(results)
    detection = results["detection"]
    cells, counts = detection["cells"], detection["images"]
    groups = {group: [name for name in detection["groups"] if detection["groups"][name] == group] for group in _GROUPS}
    lines = [f"# Which score detects which set? {results['dataset']['name']} inside", ""]
    runs = counted(len(results["seeds"]), "training run")
    lines += [f"Means over {runs}; higher scores are more anomalous.", ""]
    lines += [f"Images: {', '.join(f'{name} {images:,}' for name, images in counts.items())}.", ""]
    if fewer := detection["of_fewer"]:
        most = counted(max(fewer.values()), "image")
        lines += [f"Of {', '.join(fewer)}, which are expensive, the first {most} of each set.", ""]
    lines += [f"- **{group}**: {text}" for group, text in _GROUPS.items() if groups[group]] + [""]
    lines += [f"- **{name}**: {text}" for name, text in detection["about"].items()]

    def table(title: str, show: Callable[[Mapping[str, float]], str]) -> None:
        lines.append(f"\n## {title}")
        for group, sets in groups.items():
            if sets:
                rows = {name: [show(row[outside]) for outside in sets] for name, row in cells.items()}
                lines.extend(["", f"### {group}", "", *_rows("score", sets, rows)])

    table(
        f"AUROC, with {detection['level']:.0%} intervals over runs and images (0.5: no better than chance)",
        lambda cell: f"{share(cell['auroc'])} [{share(cell['low'])}, {share(cell['high'])}]",
    )
    table("AUPR-out: average precision, images outside as positives", lambda cell: share(cell["aupr_out"]))
    table("AUPR-in: average precision, images inside as positives", lambda cell: share(cell["aupr_in"]))
    table("FPR95: share outside that passes where 95% inside do", lambda cell: share(cell["fpr95"]))
    lines += [*_found(detection), *_hiding(detection), *_abroad(detection)]
    lines.append(figures(results, "scores"))
    return "\n".join(lines) + "\n"


def _rows(corner: str, head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = [f"| {corner} | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def _found(detection: Mapping[str, Any]) -> list[str]:
    if not detection["found"]:
        return []
    level, shares = detection["found"]["false_alarms"], detection["found"]["shares"]
    sets = [*next(iter(shares.values()))]
    rows = {name: [share(row[label]) for label in sets] for name, row in shares.items()}
    text = (
        f"Images whose conformal p-value is at most {level:g}, by the scores of {detection['found']['held_out']:,}"
        f" training images held out. Of the images {detection['inside']} these are the false alarms.\n"
    )
    return [f"\n## Share found at {level:.0%} false alarms\n", text, *_rows("score", sets, rows)]


def _hiding(detection: Mapping[str, Any]) -> list[str]:
    if not (hiding := detection["hiding"]):
        return []
    judges = [*hiding["rows"]]
    rows = {
        f"{name}: {what}": [f"{share(row[judge][f'{key}_before'])} to {share(row[judge][key])}" for judge in judges]
        for name, row in hiding["rows"].items()
        for what, key in (("AUROC", "auroc"), ("found", "found"))
    }
    text = (
        f"{counted(hiding['images'], 'image')}, each pixel moved by {intensity(hiding['epsilon'])} at most to lower the"
        " score in the row (white box); before and after, by the scores in the columns; found at the same rate of"
        " false alarms.\n"
    )
    return [f"\n## Images of {hiding['set']} that hide from a score\n", text, *_rows("hidden from", judges, rows)]


def _abroad(detection: Mapping[str, Any]) -> list[str]:
    if not (abroad := detection["abroad"]):
        return []
    rows = {
        name: [f"{share(cell['auroc'])} [{share(cell['low'])}, {share(cell['high'])}]", share(cell["fpr95"])]
        for name, cell in abroad["cells"].items()
    }
    home, away = (counted(count, "image") for count in abroad["images"].values())
    return [
        f"\n## The other way round: VAEs trained on {abroad['set']}\n",
        f"{home} of {abroad['set']} that the VAE has not seen are inside, {away} of the test set outside.\n",
        *_rows("score", ["AUROC", "FPR95"], rows),
    ]
