"""Does `--plan` list what a run would compute, and compute nothing?"""

import re

import pytest

from vaecore.suite.judging.findings import FOLDER

OK = 0
ROW = re.compile(r"(\S.*?\S) +([\d,]+) +([\d,]+) +([\d,]+) +(-|unknown|[\d,]+) +(?:-|\d+\.\d)")


@pytest.fixture
def plan(project):
    """Give a function that gives the rows of a plan of tests, and the line beneath: what it comes to."""

    def start(*options):
        result = project(*options, "--plan")
        assert result.ret == OK
        rows = {row[1]: row.groups()[1:] for line in result.outlines if (row := ROW.fullmatch(line.strip()))}
        (summary,) = (line for line in result.outlines if line.endswith("Nothing was computed."))
        return rows, summary.removesuffix(" Nothing was computed.")

    start.project = project
    return start


def entries(project):
    return len([*(project.path / "cache").glob("*/*.safetensors")])


def test_a_plan_has_costs_by_past_runs(plan):
    calibration = str(FOLDER / "test_calibration.py")
    rows, summary = plan(calibration)
    each = ("preconditions", "accuracy", "draws, clean", "digests of models")
    assert rows == dict.fromkeys(each, ("2", "0", "2", "unknown"))
    assert summary == "8 tasks to compute; as none of their kind has run on this machine yet, there is no estimate."
    assert entries(plan.project) == 0
    plan.project(calibration, "--runs=3")
    assert entries(plan.project) == 12
    rows, summary = plan(calibration, "--runs=5", "--workers=2")
    assert rows == dict.fromkeys(each, ("5", "3", "2", "1"))
    assert summary == "8 tasks to compute: about 1 s with 2 workers."
    rows, summary = plan(calibration, str(FOLDER / "test_latent.py"), "-k", "E1 or B4", "--runs=4")
    assert rows == {
        "preconditions": ("8", "3", "5", "1"),  # of attacks, too
        "draws, clean": ("4", "3", "1", "1"),
        "accuracy": ("4", "3", "1", "1"),
        "digests of models": ("4", "3", "1", "1"),
        "draws, fgsm-0.1": ("4", "0", "4", "unknown"),
        "draws, sign-0.1": ("4", "0", "4", "unknown"),
    }
    assert summary == (
        "16 tasks to compute: about 1 s with one process, and 8 tasks of kinds that have not run on this machine yet."
    )
    assert plan(calibration, "--runs=3") == (
        dict.fromkeys(each, ("3", "3", "0", "-")),
        "The cache has all that is needed.",
    )
    assert entries(plan.project) == 12


def test_a_plan_is_what_a_run_computes(plan):
    files = [str(FOLDER / f"test_{name}.py") for name in ("consistency", "decisions", "latent", "outside")]
    rows, _ = plan(*files)
    plan.project(*files)
    assert sum(int(needed) for needed, *_ in rows.values()) == entries(plan.project)


def test_a_plan_of_a_whole_report_has_its_tasks(plan):
    rows, _ = plan(str(FOLDER), "--report-dir=out")
    assert {"contact sheet", "scores, permuted", "cleaning, fgsm-0.25"} <= set(rows), rows


def test_a_plan_trains_nothing(plan):
    models = plan.project.path / "models.py"
    fit = "\n\ndef fit(self, images):\n    open('trained', 'w').close()\n\n\nTinyVAE.fit = fit\n"
    models.write_text(models.read_text(encoding="utf-8") + fit, encoding="utf-8")
    (plan.project.path / "test_it.py").write_text("def test_it(study):\n    assert study.runs\n", encoding="utf-8")
    rows, _ = plan()
    assert rows == {"training the vae": ("2", "0", "2", "unknown")}
    assert not (plan.project.path / "trained").exists()


def test_a_test_that_cannot_be_planned_is_named(run):
    result = run("\n\ndef test_it(study):\n    study.table('fgms-0.2')\n", "--plan")
    assert result.ret == OK
    result.stdout.fnmatch_lines(["Not planned: test_it.py::test_it raises ValueError: condition must be one of *"])


@pytest.mark.slow
def test_a_plan_under_xdist_is_refused(run, refused):
    result = run("\n\ndef test_it(study):\n    pass\n", "--plan", "-n1", inprocess=False)
    refused(result, "--plan must run in one process, not in those of pytest-xdist (leave out -n)")


def test_a_test_that_cannot_be_planned_is_named_with_what_it_raises(project):
    project.path.joinpath("registry.toml").write_text(
        '[X1]\nkind = "finding"\nsentence = "A sentence."\nestimand = "a number"\nsource = "here"\nno_effect = "> 0"\n'
    )
    project.path.joinpath("test_mine.py").write_text(
        "import pytest\n\n\n"
        '@pytest.mark.claim("X1")\ndef test_mine(study, claim):\n    """A sentence."""\n    study.table("fgsm-0.22")\n'
    )
    lines = project("test_mine.py", "--plan").outlines
    (line,) = [line for line in lines if line.startswith("Not planned: ")]
    assert line.startswith("Not planned: test_mine.py::test_mine raises ValueError: condition must be one of clean,")
