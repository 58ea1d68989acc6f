"""The files of a report, from results and figures alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaecore.suite.report import page
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.report.markdown import decisions, outside, summary
from vaecore.suite.results import FILE, to_json
from vaecore.toolkit import write_atomically


def write(folder: Path, results: Mapping[str, Any], figures: Mapping[str, bytes]) -> None:
    """Write results.json, pages and figures, each file whole or not at all; results.json comes last.

    figures: content by file name. Figures and pages of an earlier study that this one does not have are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = page.render(results, figures)
    for name, content in figures.items():
        write_atomically(folder / name, content)
    write_atomically(folder / page.FILE, index.encode())
    for old in {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")} - set(figures):
        (folder / old).unlink(missing_ok=True)
    if results["decisions"] is None:
        (folder / "decisions.md").unlink(missing_ok=True)
    else:
        write_atomically(folder / "decisions.md", decisions.page(results).encode())
    write_atomically(folder / "detection.md", outside.page(results).encode())
    write_atomically(folder / "summary.md", summary.summary(results).encode())
    write_atomically(folder / FILE, to_json(results))


def write_verdicts(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json and the page of a user's own claims alone, each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / page.FILE, page.render(results, {}).encode())
    write_atomically(folder / FILE, to_json(results))
