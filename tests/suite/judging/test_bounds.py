"""Does a pilot write bounds once, and do later runs on the same data, and no others, stand or fall by them?"""

import os
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torchvision  # noqa: F401  # imported anew within each run of pytest it would abort

import vaecore.suite.plugin.session  # noqa: F401  # or take a second
from vaecore import load_images
from vaecore.suite.judging.bounds import read_bounds
from vaecore.suite.judging.pilot import LEAST_POWER
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.plugin import reporting

OK, FAILED, USAGE, NOT_ALL_SUPPORTED = 0, 1, pytest.ExitCode.USAGE_ERROR, 8
REGISTRY = load_registry("mine.npz")
HIGH = "np.tile(np.repeat([0.0, 1.0], [60, 540]), (2, 1))"  # a share of 0.9, of A1 with no effect at 0.5
WEAK = "np.random.default_rng(0).normal(0.02, 1.0, (2, 60))"  # of A2 with no effect at 0: too little to tell
LOW = "np.tile(np.repeat([0.0, 1.0], [240, 360]), (2, 1))"  # 0.6: above no effect, below the bound
JUDGE, SET = ("--bounds=bounds.toml",), ("--pilot", "--bounds=bounds.toml")


@pytest.fixture
def conclude(project):
    """Give a function that runs tests in a project, which conclude the mean of values, by claim."""

    def run(*options, models=True, more="", **values):
        tests = "".join(
            f'\n\n@pytest.mark.claim("{name}")\ndef test_{name.lower()}(study, claim):\n'
            f'    """{REGISTRY.claims[name].stated["sentence"]}"""\n    claim.conclude(mean({value}))\n'
            for name, value in values.items()
        )
        head = "import numpy as np\nimport pytest\nfrom vaecore.suite import mean\n"
        (project.path / "test_it.py").write_text(head + tests + more, encoding="utf-8")
        return project(*options, models=models)

    run.file = project.path / "bounds.toml"
    return run


@pytest.fixture(scope="module")
def written():
    return []


@pytest.fixture
def pilot(conclude, written):
    """As `conclude`, in a project in which a pilot has set bounds: once, as all tests have the same images."""
    if not written:
        values = {"A1": HIGH, "A2": WEAK, "A5": "np.full((2, 60), np.nan)", "A16e": LOW}
        left = conclude.file.with_name(".bounds.toml.a1b2.tmp")  # by a pilot that was killed
        left.touch()
        os.utime(left, (0, 0))
        result = conclude(*SET, A13=HIGH.replace("[60, 540]", "[580, 20]"), **values)
        assert result.ret == OK
        assert not left.exists()
        result.stdout.fnmatch_lines(
            ["Bounds: bounds.toml, 2 claims with a bound, 2 without for want of power. Judge by them *"]
        )
        written.append(conclude.file.read_bytes())
    conclude.file.write_bytes(written[0])
    return conclude


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, text
    file.write_text(text.replace(old, new), encoding="utf-8")


def fails(result, message):
    assert result.ret == USAGE
    result.stderr.fnmatch_lines([f"ERROR: {message.replace('[', '[[]')}"])


# The pilot


def test_a_pilot_writes_its_bounds_with_their_origin(pilot):
    text = pilot.file.read_text(encoding="utf-8")
    content = tomllib.loads(text)
    bounds, about = content["bounds"], content["pilot"]
    assert 'above = 0.7\npilot = "0.900 (sd 0.000, 2 runs)"\npower = 1.0\n' in text
    # Half-way from 0.6 to 0.033, up, towards no effect.
    assert bounds["A13"] == {**bounds["A13"], "below": 0.32, "pilot": "0.033 (sd 0.000, 2 runs)", "power": 1.0}
    assert set(bounds) == {"A1", "A2", "A5", "A13"}  # A16e is reported, on any data
    assert float(bounds["A2"]["unregistered"].split()[1]) < LEAST_POWER
    assert bounds["A2"]["pilot"].endswith("2 runs)")
    assert bounds["A5"]["unregistered"] == "no interval: 120 of 120 values are not finite"
    assert (about["dataset"], about["seeds"], about["profile"]) == ("mine.npz", [1000, 1001], "standard")
    assert (about["budget"], about["draws"]) == (0.2, 10)
    assert (about["vae"], about["registry"]) == ("models:TinyVAE", REGISTRY.digest)
    assert about["date"] == bounds["A1"]["date"]


def test_bounds_are_registered_once(pilot):
    before = pilot.file.read_bytes()
    fails(pilot(*SET, A1=HIGH), "bounds.toml must be a new file; it is there already (bounds are registered *")
    assert pilot.file.read_bytes() == before


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
        (("--dataset=digits",), "--bounds is for studies that have no bounds; those of digits are registered and stay"),
    ],
)
def test_what_cannot_set_bounds_is_a_usage_error(conclude, options, message):
    fit = "--dataset=digits" not in options  # the tiny models are for images of another size
    fails(conclude(*SET, *options, models=fit, A1=HIGH), message)
    assert not conclude.file.exists()


def test_a_pilot_in_which_something_failed_sets_nothing(conclude):
    result = conclude(*SET, A1=HIGH, more="\n\ndef test_x():\n    assert 0\n")
    assert result.ret == FAILED
    result.stdout.fnmatch_lines(["No bounds were written to bounds.toml: a pilot sets them once, when nothing failed."])
    assert not conclude.file.exists()


# Later runs


@pytest.mark.parametrize(("values", "word", "status"), [(HIGH, "supported", OK), (LOW, "refuted", NOT_ALL_SUPPORTED)])
def test_later_runs_are_judged_by_them(pilot, values, word, status):
    result = pilot(*JUDGE, A1=values)
    assert result.ret == status
    result.stdout.fnmatch_lines(
        [f"bounds: bounds.toml, digest {'?' * 12}, pilot of * (seeds 1000 to 1001)", f"1 {word}"]
    )
    result.stdout.no_fnmatch_line("note: *")
    result.stdout.fnmatch_lines(["*bound > 0.70, *"])


def test_a_claim_without_power_or_beyond_the_pilot_is_not_judged_and_takes_no_error_rate(pilot):
    result = pilot(*JUDGE, "-rA", A1=LOW, A2=HIGH, A8=HIGH)
    assert result.parseoutcomes() == {"refuted": 1, "skipped": 2}
    text = " ".join(result.stdout.str().split())
    assert "A2: power 0." in text
    assert "the pilot of bounds.toml did not conclude it" in text
    assert "intervals at level 0.9750" in text  # A1 and A13 alone share it


def test_a_name_that_a_terminal_or_a_file_cannot_take_is_no_other_circumstance(conclude):
    (conclude.file.parent / "mine.npz").rename(conclude.file.parent / "m\x1b\udcff.npz")
    data = "--dataset=m\x1b\udcff.npz"
    assert conclude(data, *SET, A1=HIGH).ret == OK
    result = conclude(data, *JUDGE, A1=HIGH)
    assert result.ret == OK
    result.stdout.no_fnmatch_line("note: *")


def test_without_them_the_terminal_says_how_to_set_them(conclude):
    line = "bounds: none for mine.npz, judged against no effect; the same command with --pilot *"
    conclude(A1=HIGH).stdout.fnmatch_lines([line])


def test_other_circumstances_are_said_and_do_not_forbid_to_judge(pilot):
    edit(pilot.file, 'vae = "models:TinyVAE"', 'vae = "models:Other"')
    edit(pilot.file, 'precision = "float32"', 'precision = "bfloat16"')
    edit(pilot.file, REGISTRY.digest, "0" * 32)
    edit(pilot.file, "[bounds.A1]", "[bounds.Z9]")
    result = pilot(*JUDGE, A13="np.zeros((2, 600))")
    assert result.ret == OK
    result.stdout.fnmatch_lines(
        [
            "note: the bounds were set on another vae: models:Other",
            "note: the bounds were set in another precision: bfloat16",
            "note: the bounds were set under another registry: claims may have changed since",
            "note: bounds of claims that are not looked at: Z9",
        ]
    )


def test_they_are_for_the_same_images_only(pilot):
    images = np.random.default_rng(1).random((60, 8, 8), dtype=np.float32)
    np.savez(pilot.file.with_name("mine.npz"), images=images, labels=np.arange(60) % 3)
    fails(pilot(*JUDGE, A1=HIGH), "bounds.toml must be for these test images; it was set on mine.npz of digest *")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--epsilon=8/255",),
            "must be for this attack budget; it was set with 0.2, this study has 8/255 (--epsilon 0.2",
        ),
        (("--draws=5",), "must be for this number of draws; it was set with 10, this study has 5 (--draws 10, or a"),
    ],
)
def test_they_are_for_the_same_protocol_only(pilot, options, message):
    fails(pilot(*JUDGE, *options, A1=HIGH), f"bounds.toml {message}*")


def test_registered_bounds_are_never_replaced(pilot):
    for split in ("test", "train"):
        (digest,) = [line for line in pilot.file.read_text().splitlines() if line.startswith(f"{split}_digest")]
        edit(pilot.file, digest, f'{split}_digest = "{load_images("digits", split).digest}"')
    result = pilot(*JUDGE, "--dataset=digits", models=False, A1=HIGH)
    fails(result, "--bounds is for studies that have no bounds; those of digits are registered *")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("above = 0.7", "above = nan", "bounds.toml: A1.above must be a finite number; got nan"),
        ("above = 0.7", 'above = "0.7"', "bounds.toml: A1.above must be a finite number; got '0.7'"),
        ("above = 0.7", "", "bounds.toml: A1 must have above, below or unregistered"),
        ("above = 0.7", "abov = 0.7", "bounds.toml: unknown key A1.abov; A1 must have above, below or unregistered"),
        (
            "above = 0.7",
            "below = 0.7",
            "bounds.toml, claim A1: its bound must lie where there is an effect, > 0.50; got < 0.70",
        ),
        (
            "above = 0.7",
            "above = 0.7\nbelow = 0.6",
            "bounds.toml, claim A1: above must be less than below; got 0.7 and 0.6, *",
        ),
        ("[pilot]", "[pilots]", "bounds.toml must hold the tables `pilot` and `bounds`; got pilots, bounds *"),
        ('profile = "standard"', "", "bounds.toml: `pilot` must say profile; it does not"),
        ("draws = 10", "", "bounds.toml: `pilot` must say draws; it does not"),
        ("budget = 0.2", 'budget = "0.2"', "bounds.toml: `pilot` must say budget; it does not"),
        ("[pilot]", "[pilot", "bounds.toml must be a TOML file; it can't be read: *"),
    ],
)
def test_an_edited_file_that_is_malformed_is_refused(pilot, old, new, message):
    edit(pilot.file, old, new)
    fails(pilot(*JUDGE, A1=HIGH), message)


def test_a_report_names_the_file_its_digest_and_what_to_mind(pilot, tiny):
    bounds = read_bounds(pilot.file, tiny.facts)
    named = reporting.head(tiny, load_registry("mine.npz", bounds=bounds), [])["bounds"]
    assert (named["file"], named["digest"]) == ("bounds.toml", bounds.digest)
    assert named["date"] == str(bounds.pilot["date"])
    assert named["notes"] == [
        "the bounds were set on another vae: models:TinyVAE",
        "the bounds were set on another classifier: models:TinyClassifier",
    ]
    whole = load_registry("mine.npz", bounds=bounds, error_rate="study")
    said = "the power at the bounds was that of another error rate: 0.05 by family"
    found = reporting.head(tiny, whole, [])
    assert said in found["bounds"]["notes"]
    assert (found["error_rate"], "--error-rate study" in found["command"]) == ("study", True)
    older = replace(bounds, pilot={key: value for key, value in bounds.pilot.items() if key != "error_rate"})
    assert said in older.notes(tiny.facts, whole.digest, whole.claims, "study")
    assert said not in older.notes(tiny.facts, whole.digest, whole.claims, "family")
