"""The files of a report, from results and figures alone."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vaecore.suite.report import page
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.report.markdown import decisions, outside, summary
from vaecore.suite.report.tables import TABLES
from vaecore.suite.results import FILE, to_json
from vaecore.toolkit import sweep, write_atomically


def write(folder: Path, results: Mapping[str, Any], figures: Mapping[str, bytes]) -> None:
    """Write results.json, tables, pages and figures, each file whole or not at all; results.json comes last.

    figures: content by file name. Figures and pages of an earlier study that this one does not have are removed.
    """
    pages = {page.FILE: page.render(results, figures)}
    pages |= {} if results["decisions"] is None else {"decisions.md": decisions.page(results)}
    pages |= {"detection.md": outside.page(results), "summary.md": summary.summary(results)}
    drawn = {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    _put(folder, {**figures, **_encoded(pages | _tables(results)), FILE: to_json(results)}, {*drawn, "decisions.md"})


def write_verdicts(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json, tables and the page of a user's own claims alone, each file whole or not at all."""
    texts = {page.FILE: page.render(results, {})} | _tables(results)
    _put(folder, {**_encoded(texts), FILE: to_json(results)}, set())


def _tables(results: Mapping[str, Any]) -> dict[str, str]:
    """CSV files of the tables that have rows, by name."""
    every = {f"{name}.csv": table(results) for name, table in TABLES.items()}
    return {name: table.csv() for name, table in every.items() if len(table)}


def _encoded(texts: Mapping[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in texts.items()}


def _put(folder: Path, files: Mapping[str, bytes], every: Collection[str]) -> None:
    """Write files, and remove what killed processes left and, of `every` file that a report may hold, old ones."""
    folder.mkdir(parents=True, exist_ok=True)
    old = {*every, *(f"{name}.csv" for name in TABLES)} - set(files)
    for name in (*old, *files):
        sweep(folder, name)
    for name, content in files.items():
        write_atomically(folder / name, content)
    for name in old:
        (folder / name).unlink(missing_ok=True)
