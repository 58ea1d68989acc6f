"""Family C: the matrix of scores and sets."""

from collections.abc import Callable, Mapping
from typing import Any

from vaecore.suite.report.markdown.parts import figures, literal, share
from vaecore.suite.text import counted


def page(results: Mapping[str, Any]) -> str:
    """The matrix of scores and sets, one table for each measure, as a Markdown page."""
    results = literal(results)
    detection = results["detection"]
    cells, counts = detection["cells"], detection["images"]
    sets = [*next(iter(cells.values()))]
    lines = [f"# Which score detects which set? {results['dataset']['name']} inside", ""]
    runs = counted(len(results["seeds"]), "training run")
    lines += [f"Means over {runs}; higher scores are more anomalous.", ""]
    lines += [f"Images: {', '.join(f'{name} {images:,}' for name, images in counts.items())}.", ""]
    lines += [f"- **{name}**: {text}" for name, text in detection["about"].items()]

    def table(title: str, show: Callable[[Mapping[str, float]], str]) -> None:
        head = [f"\n## {title}\n", f"| score | {' | '.join(sets)} |", "|---|" + "---:|" * len(sets)]
        lines.extend(head)
        lines.extend(
            f"| {name} | {' | '.join(show(row[outside]) for outside in sets)} |" for name, row in cells.items()
        )

    table(
        f"AUROC, with {detection['level']:.0%} intervals over runs and images (0.5: no better than chance)",
        lambda cell: f"{share(cell['auroc'])} [{share(cell['low'])}, {share(cell['high'])}]",
    )
    table("AUPR-out: average precision, images outside as positives", lambda cell: share(cell["aupr_out"]))
    table("AUPR-in: average precision, images inside as positives", lambda cell: share(cell["aupr_in"]))
    table("FPR95: share outside that passes where 95% inside do", lambda cell: share(cell["fpr95"]))
    lines.append(figures(results, "scores"))
    return "\n".join(lines) + "\n"
