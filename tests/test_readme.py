"""README and docs/speed.md say what the committed reports say; links and named files are there."""

import json
import re
from collections import Counter

import pytest

from bench.table import markdown, medians, tables
from vaecore.suite.judging.findings import REGISTRY
from vaecore.suite.judging.verdict import NEAR

ROOT = REGISTRY.parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([A-E]\d+[a-z]?) \| .* \| (\S+) \[(\S+), (\S+)\] \| (.+?) \| (\w+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def results():
    """Give the results of the reference run."""
    return json.loads((ROOT / "reports/mnist/results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def claims(results):
    """Give the claims of the reference run."""
    return results["claims"]


@pytest.fixture(scope="module")
def speed():
    """Give the tables of the committed benchmark runs, by title."""
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "reports/bench").glob("*.json"))]
    assert len(runs) == 3
    return tables(medians([run["benchmarks"] for run in runs]))


def test_the_table_is_that_of_the_reference_run(claims):
    reported = {
        claim["claim"]: (
            *(f"{claim[key]:.3f}" for key in ("estimate", "low", "high")),
            claim["bound"],
            claim["verdict"],
        )
        for claim in claims
    }
    shown = {name: tuple(rest) for name, *rest in ROW.findall(README)}
    assert {name[0] for name in shown} == {*"ABCDE"}
    assert len(shown) == 10
    assert {verdict for *_, verdict in shown.values()} == {"supported", "inconclusive"}
    assert shown == {name: reported[name] for name in shown}


def test_the_tally_is_that_of_the_reference_run(results):
    judged = [claim for claim in results["claims"] if claim["verdict"] != "reported"]
    count = Counter(claim["verdict"] for claim in judged)
    text = " ".join(README.split())
    low, high = results["expected_supported"]
    near = [claim["claim"] for claim in judged if claim["same"] < NEAR]
    told = ", ".join(f"{count[verdict]} are {verdict}" for verdict in ("supported", "inconclusive") if count[verdict])
    assert f"Of its {len(judged)} claims that have a bound, {told.replace(', ', ' and ')}" in text
    assert f"may be expected to support {low} to {high}" in text
    assert f"{len(near)} claims are near their bounds: {', '.join(near)}." in text
    assert set(count) == {"supported", "inconclusive"}


def test_what_is_said_of_cifar_10_is_that_of_its_reports():
    found = {
        name: json.loads((ROOT / f"reports/cifar-10{name}/results.json").read_text(encoding="utf-8"))
        for name in ("", "-pilot")
    }
    judged = [claim for claim in found[""]["claims"] if claim["verdict"] != "reported"]
    count, text = Counter(claim["verdict"] for claim in judged), " ".join(README.split())
    low, high = found[""]["expected_supported"]
    doubtful = ", ".join(claim["claim"] for claim in judged if claim["verdict"] == "inconclusive")
    told = f"{count['supported']} are supported and {count['inconclusive']} are inconclusive ({doubtful})"
    assert f"of the {len(judged)} claims that have a bound there, {told}" in text
    assert f"may be expected to support {low} to {high}." in text
    for name, of, form in (("A25", "", "(A25, AUROC {}; 0.921 on"), ("B1", "-pilot", "(B1, in the pilot {}; 1.394 on")):
        (claim,) = [one for one in found[of]["claims"] if one["claim"] == name]
        assert form.format("{estimate:.3f} [{low:.3f}, {high:.3f}]".format(**claim)) in text


def test_the_level_is_that_of_family_a(claims):
    family = [claim for claim in claims if claim["claim"].startswith("A")]
    judged = sum(claim["verdict"] != "reported" for claim in family)
    text = " ".join(README.split())
    assert f"with {judged} claims in family A, each of its intervals is at level {family[0]['level']:.4f}" in text


def test_the_throughput_is_that_of_the_committed_runs(speed):
    whole = (ROOT / "reports/bench/table.md").read_text(encoding="utf-8")
    assert all(markdown(grid) in whole for grid in speed.values())
    headings, _, *lines = markdown(speed["speed and quality"]).splitlines()
    page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
    shown = page[page.index(headings) :].partition("\n\n")[0].splitlines()[2:]
    assert len(shown) > 20
    assert set(shown) <= set(lines)
    assert (ROOT / "reports/bench/throughput.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("task", "way", "words"),
    [
        ("L-BFGS, targeted, cpu", "vaecore", "targeted L-BFGS takes {} ms an image"),
        ("L-BFGS, targeted, cpu", "scipy, one by one", "(scipy, one image at a time: {} ms)"),
        (
            "errors of reconstructions, MLP VAE, K = 10, 1,000 images, cpu",
            "vaecore",
            "errors of ten reconstructions take {} ms an image",
        ),
        (
            "errors of reconstructions, MLP VAE, K = 10, 1,000 images, cpu",
            "forward passes",
            "(naive forward passes: {} ms)",
        ),
    ],
)
def test_the_speed_in_words_is_that_of_the_committed_runs(speed, task, way, words):
    (took,) = [row[2] for row in speed["speed and quality"] if row[:2] == (task, way)]
    assert words.format(took) in " ".join(README.split())


@pytest.mark.parametrize(("name", "count"), [("mnist", 3), ("cifar-10", 1)])
def test_the_nearest_norms_are_those_of_the_committed_runs(name, count):
    paths = sorted((ROOT / "reports/bench/nearest").glob(f"{name}-*.json"))
    assert len(paths) == count
    (grid,) = tables(medians([json.loads(path.read_text(encoding="utf-8"))["benchmarks"] for path in paths])).values()
    whole = markdown(grid)
    assert whole in (ROOT / f"reports/bench/nearest/{name}.md").read_text(encoding="utf-8")
    if name == "mnist":
        headings = whole.splitlines()[0]
        page = (ROOT / "docs/speed.md").read_text(encoding="utf-8")
        shown = page[page.index(headings) :].partition("\n\n")[0].splitlines()[2:]
        assert len(shown) == 20
        assert set(shown) <= set(whole.splitlines())


PAGES = (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "claims/README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        file, _, heading = target.partition("#")
        linked = page.parent / file if file else page
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in [name.lower().replace(" ", "-") for name in headings], target


def test_the_files_that_recipes_name_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./]+\.(?:pyi?|toml|md))`", text) if "_name.py" not in name}
    assert len(named) > 20
    missing = [
        name for name in named if not any((folder / name).is_file() for folder in (ROOT, ROOT / "vaecore/suite"))
    ]
    assert missing == []
