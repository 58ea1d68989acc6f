"""Does a pilot write bounds once, and do later runs on the same data, and no others, stand or fall by them?"""

import tomllib

import numpy as np
import pytest

from vaecore import load_images
from vaecore.suite.judging.bounds import LEAST_POWER
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.report import summary as report

OK, FAILED, USAGE, NOT_ALL_SUPPORTED = 0, 1, pytest.ExitCode.USAGE_ERROR, 8
CLAIMS = load_registry("mine.npz").claims
HIGH = "np.tile(np.repeat([0.0, 1.0], [60, 540]), (2, 1))"  # a share of 0.9, of A1 with no effect at 0.5
WEAK = "np.random.default_rng(0).normal(0.02, 1.0, (2, 60))"  # of A2 with no effect at 0: too little to tell
LOW = "np.tile(np.repeat([0.0, 1.0], [240, 360]), (2, 1))"  # 0.6: above no effect, below the bound
BOUND = 'above = 0.7\npilot = "0.900 (sd 0.000, 2 runs)"\npower = 1.0\n'


def module(**values):
    """Give the source of tests that conclude the mean of these values."""
    head = "import numpy as np\nimport pytest\nfrom vaecore.suite.statistics.intervals import mean\n"
    return head + "".join(
        f'\n\n@pytest.mark.claim("{name}")\ndef test_{name.lower()}(study, claim):\n'
        f'    """{CLAIMS[name].sentence}"""\n    claim.conclude(mean({value}))\n'
        for name, value in values.items()
    )


@pytest.fixture(scope="module")
def written():
    return []


@pytest.fixture
def pilot(project, written):
    """Give a project in which a pilot has written bounds; the first test's, for all tests have the same images."""
    made = module(A1=HIGH, A2=WEAK, A5="np.full((2, 60), np.nan)", A13=HIGH.replace("[60, 540]", "[580, 20]"), A16a=LOW)
    (project.path / "test_it.py").write_text(made, encoding="utf-8")
    if written:
        (project.path / "bounds.toml").write_bytes(written[0])
        return project
    result = project("--pilot", "--bounds=bounds.toml")
    assert result.ret == OK
    result.stdout.fnmatch_lines(["Bounds: bounds.toml, 2 claims with a bound, 2 without for want of power. Judge *"])
    written.append((project.path / "bounds.toml").read_bytes())
    return project


def conclude(project, options=("--bounds=bounds.toml",), *, models=True, **values):
    (project.path / "test_it.py").write_text(module(**values), encoding="utf-8")
    return project(*options, models=models)


def edit(project, old, new):
    file = project.path / "bounds.toml"
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, text
    file.write_text(text.replace(old, new), encoding="utf-8")


# The pilot


def test_a_pilot_writes_its_bounds_with_their_origin(pilot):
    text = (pilot.path / "bounds.toml").read_text(encoding="utf-8")
    found = tomllib.loads(text)
    assert BOUND in text
    assert found["bounds"]["A13"] | {"date": None} == {
        "below": 0.32,  # half-way from 0.6 to 0.033, up, towards no effect
        "pilot": "0.033 (sd 0.000, 2 runs)",
        "power": 1.0,
        "date": None,
    }
    assert set(found["bounds"]) == {"A1", "A2", "A5", "A13"}  # A16a is reported, on any data
    power = float(found["bounds"]["A2"]["unregistered"].split()[1])
    assert power < LEAST_POWER
    assert found["bounds"]["A2"]["pilot"].endswith("2 runs)")
    assert found["bounds"]["A5"]["unregistered"] == "no interval: 120 of 120 values are not finite"
    about = found["pilot"]
    assert (about["dataset"], about["seeds"], about["profile"]) == ("mine.npz", [1000, 1001], "standard")
    assert (about["vae"], about["registry"]) == ("models:TinyVAE", load_registry("mine.npz").digest)
    assert about["date"] == found["bounds"]["A1"]["date"]


def test_bounds_are_registered_once(pilot):
    before = (pilot.path / "bounds.toml").read_bytes()
    result = pilot("--pilot", "--bounds=bounds.toml")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["ERROR: bounds.toml must be a new file; it is there already (bounds are registered *"])
    assert (pilot.path / "bounds.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--vae=models:finished_vae", "--classifier=models:finished_classifier"),
            "*must train models of its own; finished models would be judged by bounds set from the very same numbers*",
        ),
        (("--profile=smoke",), "*needs two runs or more, and not the smoke profile*"),
        (("--runs=1",), "*needs two runs or more*"),
        (("--bounds=no/bounds.toml",), "no/bounds.toml must lie in a folder that exists; there is no *"),
        (("--dataset=digits",), "--bounds is for data that have no bounds; those of digits are registered and stay"),
    ],
)
def test_what_cannot_set_bounds_is_a_usage_error(project, options, message):
    (project.path / "test_it.py").write_text(module(A1=HIGH), encoding="utf-8")
    fit = "--dataset=digits" not in options  # the tiny models are for images of another size
    result = project("--pilot", "--bounds=bounds.toml", *options, models=fit)
    assert result.ret == USAGE
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert not list(project.path.rglob("bounds.toml"))


def test_a_pilot_in_which_something_failed_sets_nothing(project):
    (project.path / "test_it.py").write_text(module(A1=HIGH) + "\n\ndef test_x():\n    assert 0\n", encoding="utf-8")
    result = project("--pilot", "--bounds=bounds.toml")
    assert result.ret == FAILED
    result.stdout.fnmatch_lines(["No bounds were written to bounds.toml: a pilot sets them once, when nothing failed."])
    assert not (project.path / "bounds.toml").exists()


# Later runs


@pytest.mark.parametrize(
    ("values", "verdict", "status"), [(HIGH, "supported", OK), (LOW, "refuted", NOT_ALL_SUPPORTED)]
)
def test_later_runs_are_judged_by_them(pilot, values, verdict, status):
    result = conclude(pilot, A1=values)
    assert result.ret == status
    digest = "?" * 12
    result.stdout.fnmatch_lines(
        [f"bounds: bounds.toml, digest {digest}, pilot of * (seeds 1000 to 1001)", f"1 {verdict}"]
    )
    result.stdout.no_fnmatch_line("note: *")
    result.stdout.fnmatch_lines(["A1 *> 0.70 *"])


def test_a_claim_without_power_or_beyond_the_pilot_is_not_judged_and_takes_no_error_rate(pilot):
    result = conclude(pilot, A1=HIGH, A2=HIGH, A8=HIGH)
    result.assert_outcomes(passed=1, skipped=2)
    text = " ".join(result.stdout.str().split())
    assert "A2: power 0." in text
    assert "the pilot of bounds.toml did not conclude it" in text
    levels = conclude(pilot, ("--bounds=bounds.toml", "-rA"), A1=LOW).stdout.str()
    assert "(level 0.9750, 2 runs" in levels  # A1 and A13 alone share it


def test_without_them_the_terminal_says_how_to_set_them(project):
    result = conclude(project, (), A1=HIGH)
    result.stdout.fnmatch_lines(
        ["bounds: none for mine.npz, judged against no effect; the same command with --pilot *"]
    )


def test_other_models_may_be_judged_by_them_and_that_is_said(pilot):
    models = pilot.path / "models.py"
    models.write_text(models.read_text(encoding="utf-8") + "\n\nclass OtherVAE(TinyVAE):\n    pass\n", encoding="utf-8")
    result = conclude(pilot, ("--bounds=bounds.toml", "--vae=models:OtherVAE"), A1=HIGH)
    assert result.ret == OK
    result.stdout.fnmatch_lines(["note: the bounds were set on another vae: models:TinyVAE"])


def test_another_precision_is_said(pilot):
    edit(pilot, 'precision = "float32"', 'precision = "bfloat16"')
    result = conclude(pilot, A13="np.zeros((2, 600))")
    result.stdout.fnmatch_lines(["note: the bounds were set in another precision: bfloat16"])


def test_another_registry_and_claims_that_are_not_there_are_said(pilot):
    edit(pilot, load_registry("mine.npz").digest, "0" * 32)
    edit(pilot, "[bounds.A1]", "[bounds.Z9]")
    result = conclude(pilot, A13="np.zeros((2, 600))")
    result.stdout.fnmatch_lines(
        [
            "note: the bounds were set under another registry: claims may have changed since",
            "note: bounds of claims that are not looked at: Z9",
        ]
    )


def test_they_are_for_the_same_images_only(pilot):
    images = np.random.default_rng(1).random((60, 8, 8), dtype=np.float32)
    np.savez(pilot.path / "mine.npz", images=images, labels=np.arange(60) % 3)
    result = conclude(pilot, A1=HIGH)
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(
        ["ERROR: bounds.toml must be for these test images; it was set on mine.npz of digest *"]
    )


def test_registered_bounds_are_never_replaced(pilot):
    result = conclude(pilot, ("--bounds=bounds.toml", "--dataset=digits"), models=False, A1=HIGH)
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["ERROR: bounds.toml must be for these test images*"])
    file = pilot.path / "bounds.toml"
    digests = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("test_digest")]
    edit(pilot, digests[0], f'test_digest = "{load_images("digits", "test").digest}"')
    result = conclude(pilot, ("--bounds=bounds.toml", "--dataset=digits"), models=False, A1=HIGH)
    assert result.ret == USAGE
    result.stderr.fnmatch_lines(["ERROR: --bounds is for data that have no bounds; those of digits are registered *"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("above = 0.7", "above = nan", "bounds.toml: A1.above must be a finite number; got nan"),
        ("above = 0.7", 'above = "0.7"', "bounds.toml: A1.above must be a finite number; got '0.7'"),
        ("above = 0.7", "", "bounds.toml: A1 must have above, below or unregistered"),
        ("above = 0.7", "abov = 0.7", "bounds.toml: unknown key A1.abov; A1 must have above, below or unregistered"),
        ("above = 0.7", "below = 0.7", "bounds.toml, claim A1: its bound must be like > 0.50; got < 0.70"),
        ("[pilot]", "[pilots]", "bounds.toml must hold the tables `pilot` and `bounds`; got pilots, bounds *"),
        ('profile = "standard"', "", "bounds.toml: `pilot` must say profile; it does not"),
        ("[pilot]", "[pilot", "bounds.toml must be a TOML file; it can't be read: *"),
    ],
)
def test_an_edited_file_that_is_malformed_is_refused(pilot, old, new, message):
    edit(pilot, old, new)
    result = conclude(pilot, A1=HIGH)
    assert result.ret == USAGE
    result.stderr.fnmatch_lines([f"ERROR: {message.replace('[', '[[]')}"])


def test_a_report_names_the_file_and_its_digest(pilot, monkeypatch):
    found = []
    monkeypatch.setattr("claims.report.write", lambda _folder, results, _study: found.append(results))
    monkeypatch.setattr(report, "gather", report.verdicts_alone)
    conclude(pilot, ("--bounds=bounds.toml", "--report-dir=out"), A1=HIGH)
    (results,) = found
    assert results["bounds"]["file"] == "bounds.toml"
    assert len(results["bounds"]["digest"]) == 32
    assert results["bounds"]["notes"] == []
