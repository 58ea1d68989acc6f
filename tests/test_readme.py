"""README's tables of claims say what the committed report says."""

import json
import re

from bench.table import markdown, medians, tables
from vaecore.suite.judging.registry import REGISTRY

ROOT = REGISTRY.parents[1]
ROW = re.compile(r"^\| ([A-E]\d+[a-z]?) \| .* \| (\S+) \[(\S+), (\S+)\] \| (.+?) \| (\w+) \|$", re.MULTILINE)


def test_the_tables_are_those_of_the_reference_run():
    claims = json.loads((ROOT / "reports/mnist/results.json").read_text(encoding="utf-8"))["claims"]
    reported = {
        one["claim"]: (*(f"{one[key]:.3f}" for key in ("estimate", "low", "high")), one["bound"], one["verdict"])
        for one in claims
    }
    shown = {name: tuple(rest) for name, *rest in ROW.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert len(shown) > 30
    assert shown == {name: reported[name] for name in shown}


def test_the_tally_is_that_of_the_reference_run():
    claims = json.loads((ROOT / "reports/mnist/results.json").read_text(encoding="utf-8"))["claims"]
    verdicts = [one["verdict"] for one in claims if one["verdict"] != "reported"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.search(r"Of its (\d+) claims that have a bound, (\d+) are supported and (\d+) are inconclusive", text)
    assert found is not None
    assert [int(number) for number in found.groups()] == [
        len(verdicts),
        verdicts.count("supported"),
        verdicts.count("inconclusive"),
    ]
    assert set(verdicts) == {"supported", "inconclusive"}


def test_the_throughput_is_that_of_the_committed_runs():
    folder = ROOT / "reports/bench"
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    assert len(runs) == 3
    found = tables(medians([run["benchmarks"] for run in runs]))
    whole = (folder / "table.md").read_text(encoding="utf-8")
    assert all(markdown(grid) in whole for grid in found.values())
    headings, _, *lines = markdown(found["speed and quality"]).splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme[readme.index(headings) :].partition("\n\n")[0].splitlines()[2:]
    assert len(shown) > 20
    assert set(shown) <= set(lines)
    assert (folder / "throughput.png").stat().st_size > 10_000
