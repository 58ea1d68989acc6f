"""Do tidy tables hold what the results hold, and do they leave the house as CSV, Parquet and data frames?"""

import csv
import io
import json
import math
import sys
from pathlib import Path

import pytest

from vaecore.suite.cli import main
from vaecore.suite.report.tables import TABLES, text
from vaecore.suite.report.writing import write
from vaecore.suite.results import FILE, load, to_json
from vaecore.toolkit import write_atomically

KEYS = {"claims": ("claim",), "conditions": ("condition",), "detection": ("score", "set")}


@pytest.fixture
def report(results, tmp_path):
    """A folder with results.json alone."""
    write_atomically(tmp_path / FILE, to_json(results))
    return tmp_path


def rows_of(name, results):
    """What `results` say, by hand: for each key of a row, some of its values."""
    if name == "claims":
        found = {(one["claim"],): {"verdict": one["verdict"], "low": one["low"]} for one in results["claims"]}
        return found | {(claim,): {"message": why} for claim, why in results["not_concluded"].items()}
    if name == "conditions":
        threats = results["threats"]
        return {(name,): {"mse": one["mse"], "threat": threats[name]} for name, one in results["conditions"].items()}
    cells = results["detection"]["cells"]
    return {(score, name): {"auroc": one["auroc"]} for score, row in cells.items() for name, one in row.items()}


def same(text, value):
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return text == ""
    return float(text) == value if isinstance(value, float) else text == str(value)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_csv_files_beside_the_results_hold_all_that_these_say(results, files, tmp_path, name):
    write(tmp_path, results, files)
    rows = [*csv.DictReader(io.StringIO((tmp_path / f"{name}.csv").read_text(encoding="utf-8")))]
    found = {tuple(row[key] for key in KEYS[name]): row for row in rows}
    expected = rows_of(name, results)
    assert list(found) == list(expected)
    assert len(rows) == len(expected) > 1
    for key, values in expected.items():
        for column, value in values.items():
            assert same(found[key][column], value), (key, column)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_command_exports_what_lies_beside_the_results(results, report, name, capsys, monkeypatch):
    """--csv to a file and to the output, --parquet, and the terminal, of which the first column shows each row."""
    table = TABLES[name](json.loads(to_json(results)))
    assert main(["table", name, str(report), "--csv", str(report / "x.csv")]) == 0
    assert main(["table", name, str(report / FILE), "--csv", "-"]) == 0
    assert capsys.readouterr().out == (report / "x.csv").read_text() == table.csv()
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["table", name, str(report)]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 100 for line in out.splitlines())
    assert all(str(row[KEYS[name][0]]) in out for row in table.rows)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_parquet_and_frames_hold_the_same(results, report, name):
    pd = pytest.importorskip("pandas", reason="pandas is not installed (uv pip install pandas)")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (uv pip install pyarrow)")
    assert main(["table", name, str(report), "--parquet", str(report / "x.parquet")]) == 0
    frame = TABLES[name](results).to_frame()
    pd.testing.assert_frame_equal(pd.read_parquet(report / "x.parquet"), frame, check_dtype=False)


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_what_is_not_installed_is_named(results, report, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "pandas":
        with pytest.raises(ImportError, match=r"to_frame needs pandas \(python -m pip install pandas\)"):
            TABLES["claims"](results).to_frame()
        return
    with pytest.raises(SystemExit):
        main(["table", "claims", str(report), "--parquet", str(report / "x.parquet")])
    assert "error: Parquet needs pyarrow (python -m pip install pyarrow)" in capsys.readouterr().err
    assert not (report / "x.parquet").exists()


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_terminal_of_80_columns_shows_a_line_a_row_and_every_digit(name):
    table = TABLES[name](load(Path(__file__).parents[3] / "reports/mnist"))
    lines = text(table, width=80, color=False, unicode=True).splitlines()
    assert len(lines) == 2 + len(table.rows)
    assert max(map(len, lines)) <= 80
    for line, cells in zip(lines[2:], table.cells(), strict=True):
        numbers = [cell for cell, is_number in zip(cells, table.numbers(), strict=True) if is_number and cell]
        assert set(numbers) <= {*line.split()}


def test_a_notebook_shows_a_table(results):
    claims = dict(results["claims"][0]) | {"claim": "<b>"}
    shown = TABLES["claims"](results | {"claims": [claims]})._repr_html_()
    assert "<th>verdict</th>" in shown
    assert "<td>&lt;b&gt;</td><td>supported</td><td>1.000</td>" in shown


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_of_the_reference_run_are_those_of_its_results(name):
    folder = Path(__file__).parents[3] / "reports/mnist"
    assert (folder / f"{name}.csv").read_text(encoding="utf-8") == TABLES[name](load(folder)).csv()
