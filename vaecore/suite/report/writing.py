"""The files of a report, from results and figures alone."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vaecore.suite.report import page
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.report.markdown import decisions, outside, summary
from vaecore.suite.results import FILE, to_json
from vaecore.toolkit import sweep, write_atomically


def write(folder: Path, results: Mapping[str, Any], figures: Mapping[str, bytes]) -> None:
    """Write results.json, pages and figures, each file whole or not at all; results.json comes last.

    figures: content by file name. Figures and pages of an earlier study that this one does not have are removed.
    """
    pages = {page.FILE: page.render(results, figures)}
    pages |= {} if results["decisions"] is None else {"decisions.md": decisions.page(results)}
    pages |= {"detection.md": outside.page(results), "summary.md": summary.summary(results)}
    drawn = {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    files = {**figures, **{name: text.encode() for name, text in pages.items()}, FILE: to_json(results)}
    _put(folder, files, {*drawn, "decisions.md"} - set(files))


def write_verdicts(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json and the page of a user's own claims alone, each file whole or not at all."""
    _put(folder, {page.FILE: page.render(results, {}).encode(), FILE: to_json(results)}, set())


def _put(folder: Path, files: Mapping[str, bytes], old: Collection[str]) -> None:
    """Write files and remove old ones, with what killed processes left of either."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*old, *files):
        sweep(folder, name)
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in old:
        (folder / name).unlink(missing_ok=True)
