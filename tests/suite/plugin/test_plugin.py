"""Does `pytest claims` judge, report and refuse as it promises? Tiny models and images, synthetic estimates."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rich.progress
import torch

from vaecore.suite import mean
from vaecore.suite.judging.findings import REGISTRY
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.plugin.conclusion import Conclusion
from vaecore.suite.plugin.items import VERDICT
from vaecore.suite.plugin.options import session_of
from vaecore.suite.study import outside, preconditions, progress, setup
from vaecore.suite.study.plan import WorkerDiedError
from vaecore.suite.text import counted, printable

CLAIMS = load_registry("mine.npz").claims
REGISTERED = f"the registered sentence of A1; expected {CLAIMS['A1'].sentence!r}"
LEVEL = f"{CLAIMS['A1'].level:.4f}"
ONES, ZEROS = "np.ones((2, 600))", "np.zeros((2, 600))"
CLEAN = f"Column({ONES}, Origin(frozenset({{'clean'}})))"  # as if of what clean images show
HALF, NAN = "np.tile([0.0, 1.0], (2, 30))", "np.full((2, 30), np.nan)"
OK, FAILED, INTERRUPTED, NOT_ALL_SUPPORTED = 0, 1, 2, 8
USAGE = pytest.ExitCode.USAGE_ERROR


def source(name, values, *, sentence=None, body=None, suffix=""):
    """Give the source of a claim's test that concludes the mean of `values`, or does `body`."""
    registered = CLAIMS[name].stated["sentence"] if name in CLAIMS else "No such sentence."
    return (
        f'\n\n@pytest.mark.claim("{name}")\n'
        f"def test_{name.lower()}{suffix}(study, claim):\n"
        f'    """{sentence or registered}"""\n'
        f"    {body or f'claim.conclude(mean({values}))'}\n"
    )


def save(path, **arrays):
    """Write 60 random 8x8 images of three classes, with other arrays instead or beside; None leaves one out."""
    images = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    arrays = {"images": images, "labels": np.arange(60) % 3, **arrays}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


# Verdicts


@pytest.mark.parametrize(
    ("name", "values", "verdict", "message"),
    [
        ("A1", ONES, "supported", ("1.000 [[]0.98?, 1.000], bound > 0.50, 2 x 600", None)),
        ("B4", ONES, "refuted", ("1.000 [[]0.9??, 1.000], bound < 0.50, 2 x 600", "the whole interval lies beyond *")),
        (
            "A1",
            HALF,
            "inconclusive",
            ("0.500 [[]0.*, 0.*], bound > 0.50, 2 x 60", "the interval straddles the bound*"),
        ),
        ("A1", NAN, "inconclusive", ("nan [[]nan, nan], bound > 0.50, 2 x 30", "no interval: 60 of 60 values *")),
    ],
)
def test_verdict_decides_outcome_lines_and_status(run, name, values, verdict, message):
    result = run(source(name, values))
    numbers, why = message
    said = [f"{name} *", f" * {numbers}: {verdict}*", *([] if why is None else [f"  {name}: {verdict}: {why}"])]
    said += [f"1 {verdict}", "No report was written: it takes all claims, on the reference study, or --report-dir."]
    assert result.ret == (OK if verdict == "supported" else NOT_ALL_SUPPORTED)
    assert result.parseoutcomes() == {"passed" if verdict == "supported" else verdict: 1}
    result.stdout.fnmatch_lines(said)
    text = result.stdout.str()
    assert "FAILURES" not in text
    assert why is None or text.count(why.strip("*")) == 1


@pytest.mark.parametrize(
    "failure",
    [
        "\n\ndef test_other():\n    assert 1 == 2\n",
        "\n\n@pytest.fixture(autouse=True)\ndef broken():\n    yield\n    raise OSError('disk')\n",
    ],
)
def test_a_failure_that_is_no_verdict_gives_status_1(run, failure):
    result = run(failure + source("A1", ZEROS))
    assert result.ret == FAILED
    result.stdout.fnmatch_lines(["1 refuted"])


@pytest.mark.parametrize(("option", "reason"), [("--profile=smoke", "smoke"), ("--runs=1", "one run")])
@pytest.mark.parametrize(("name", "values"), [("A1", ONES), ("A1", ZEROS), ("B4", ZEROS)])
def test_too_small_a_study_neither_supports_nor_refutes(run, name, values, option, reason):
    result = run(source(name, values), option)
    assert result.ret == NOT_ALL_SUPPORTED
    lines = [
        *(["A smoke test: it shows that all runs, and *"] if reason == "smoke" else []),
        f"*: not judged: {reason}",
    ]
    result.stdout.fnmatch_lines(
        [*lines, f"  {name}: not judged: one run or the smoke profile is too little *", "1 not judged"]
    )


def test_of_few_successes_of_lbfgs_nothing_is_judged(run):
    result = run(source("A3", f"Column({ONES}, Origin(frozenset({{'lbfgs'}}), 0.9))"))
    assert result.ret == NOT_ALL_SUPPORTED
    result.stdout.fnmatch_lines(
        [
            "* 2 x 600: not judged: attack failed",
            "  A3: not judged: the attack succeeded in all runs on 90% of the images *",
        ]
    )


def test_where_an_attack_leaves_too_few_images_there_is_nothing_to_judge_by(run):
    body = "raise TooFewError('lbfgs must succeed on two images or more in all runs; got 0 of 12')"
    result = run("from vaecore.suite.study.study import TooFewError\n" + source("A3", None, body=body))
    assert result.ret == NOT_ALL_SUPPORTED
    said = ["*: not judged: attack failed", "  A3: not judged: lbfgs must succeed on two images or more in all runs; *"]
    result.stdout.fnmatch_lines([*said, "*= 1 not judged in *"])


def test_a_precondition_that_is_not_met_is_told_before_the_rest_is_computed(run, monkeypatch):
    monkeypatch.setattr(preconditions, "ABOVE_CHANCE", 1.0)
    result = run(source("A1", CLEAN))
    assert result.ret == NOT_ALL_SUPPORTED
    told = "precondition not met, classifier near chance: accuracy of the classifier: *; undermines A, B, D, E"
    result.stdout.fnmatch_lines([told, "test_it.py N*", "  NOT MET: accuracy of the classifier: *", "1 not judged"])


# Tests that break the rules of the registry


UNREGISTERED = "test_it.py::test_z9: claim Z9 must be registered in claims/registry.toml; it is not"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (source("Z9", ONES), UNREGISTERED),
        (source("Z9", ONES).replace("(study, claim)", "(claim)"), UNREGISTERED),
        (
            source("A1", ONES) + source("A1", ONES, suffix="_again"),
            "test_it.py::test_a1_again: claim A1 is concluded by test_it.py::test_a1 already",
        ),
        (
            source("A1", ONES, sentence="Clean."),
            f"test_it.py::test_a1: the docstring must start with {REGISTERED}, got 'Clean.'",
        ),
        (
            source("A1", ONES).replace('claim("A1")', "claim(1)"),
            'test_it.py::test_a1: the marker must be claim("ID"); got (1,) {}',
        ),
    ],
)
def test_breach_of_the_registry_is_a_usage_error(run, refused, text, message):
    refused(run(text), message)


def test_docstring_may_go_on_after_the_sentence(run):
    assert run(source("A1", ONES, sentence=f"{CLAIMS['A1'].sentence}\n\n    And why.\n    ")).ret == OK


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            source("A1", None, body="study.facts"),
            "test_it.py::test_a1: claim A1 was not concluded; its test must call claim.conclude(estimate)",
        ),
        (
            source("A1", None, body=f"claim.conclude(mean({ONES})); claim.conclude(mean({ONES}))"),
            "E   *RuntimeError: claim A1 must be concluded once; this test concludes it again",
        ),
        (
            source("A1", None, body="claim.conclude()"),
            "E   *ValueError: claim A1 needs an estimate to conclude; got none",
        ),
        (
            "\n\ndef test_it(study, claim):\n    claim.conclude()\n",
            '*UsageError: test_it.py::test_it: the claim fixture needs the marker claim("ID")',
        ),
    ],
)
def test_a_claim_is_concluded_once_on_an_estimate(run, text, message):
    result = run(text)
    assert result.ret == FAILED
    result.stdout.fnmatch_lines([message])


def test_tables_that_are_not_concluded_on_change_no_verdict(tiny, met):
    verdicts = []
    for effect in (lambda: None, lambda: tiny.paired("clean", "lbfgs"), lambda: tiny.paired("clean", "lbfgs")[1].mse):
        effect()
        item = SimpleNamespace(user_properties=[])
        Conclusion(CLAIMS["A1"], tiny, item).conclude(mean(tiny.table("clean").doubt * 0 + 1))
        verdicts.append(json.loads(dict(item.user_properties)[VERDICT]))
    assert verdicts[0]["conditions"] == ["clean"]
    assert verdicts == verdicts[:1] * 3


def refuse(text):
    raise AssertionError(f"JSON has no {text}")


def test_verdicts_are_json_in_a_junit_report(run):
    run(source("A1", ONES) + source("A2", NAN), "--junitxml=x.xml", "-o", "junit_family=xunit1")
    properties = [one.attrib for one in ET.parse(run.path / "x.xml").iter("property")]  # noqa: S314  # ours
    values = [json.loads(one["value"], parse_constant=refuse) for one in properties if one["name"] == VERDICT]
    assert [(one["claim"], one["verdict"], one["estimate"]) for one in values] == [
        ("A1", "supported", 1.0),
        ("A2", "inconclusive", None),
    ]


# Parts of a study: what was not run is listed, and the verdicts do not change


THREE = source("A1", ONES) + source("A2", HALF) + source("A3", ZEROS)


def verdicts(result):
    """Give the tally, and which of A1, A2, A3 a run says were not run."""
    text = result.stdout.str()
    tally = next(line for line in reversed(result.outlines) if line[:1].isdigit() and "=" not in line)
    unsaid = " ".join(text.partition("No verdict")[2].split())  # the list of ids may break at a line's end
    missing = unsaid.partition(": not run")[0].split(", ")
    return (
        tally,
        [name for name in ("A1", "A2", "A3") if name in missing],
        "C1a, C2a, C3a, C4a, C5a, C11a, C11e, " in unsaid and ": takes images of kmnist" in unsaid,
    )


@pytest.mark.parametrize(
    ("options", "tally", "missing"),
    [
        ((), "1 supported, 2 inconclusive", []),
        (("-k", "a2"), "1 inconclusive", ["A1", "A3"]),
        (("-x",), "1 supported, 1 inconclusive", ["A3"]),
    ],
    ids=["all", "-k", "-x"],
)
def test_parts_of_a_study(run, options, tally, missing):
    result = run(THREE.replace(HALF, "np.tile([-1.0, 1.0], (2, 30))"), *options)
    assert verdicts(result) == (tally, missing, True)
    assert not (run.path / "reports").exists()


ELEVEN = "".join(source(name, ONES) for name in ("A1", "A10", "A11a", "A11b", "A13", "B1"))


@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("A1", ["A1"]),
        ("A11a", ["A11a"]),
        ("A1 or B1", ["A1", "B1"]),
        ("not A1", ["A10", "A11a", "A11b", "A13", "B1"]),
        ("test_a1 and not (A13 or A1)", ["A10", "A11a", "A11b"]),
        ("A11", ["A11a", "A11b"]),  # no claim's id: pytest's own rule, a part of a word
        ("a1", ["A1", "A10", "A11a", "A11b", "A13"]),
    ],
)
def test_the_id_of_a_claim_selects_that_claim(run, expression, selected):
    result = run(ELEVEN, "-k", expression, "--collect-only", "-q")
    found = [line.rpartition("::")[2] for line in result.outlines if "::" in line]
    assert found == [f"test_{name.lower()}" for name in selected]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "said"), [("--workers=2", "device: cpu (2 workers); *"), ("-n2", "dataset: mine.npz (as asked), *")]
)
def test_processes_give_the_same_verdicts(run, option, said):
    result = run(THREE.replace(ONES, CLEAN), option, inprocess=False)
    assert result.ret == NOT_ALL_SUPPORTED
    assert verdicts(result) == ("2 supported, 1 inconclusive", [], True)
    result.stdout.fnmatch_lines([said, "clean  *"])


@pytest.mark.slow
def test_after_an_interruption_nothing_is_computed(run):
    result = run(source("A1", CLEAN) + "\n\ndef test_it():\n    raise KeyboardInterrupt\n", inprocess=False)
    assert result.ret == INTERRUPTED
    result.stdout.fnmatch_lines(["1 supported", "Stopped. What was finished is kept in cache; the same command *"])
    assert not (run.path / "cache/draws").exists()


@pytest.mark.parametrize(
    ("options", "count"), [((), 2), (("--profile=smoke",), 1), (("xdist",), 1), (("xdist", "--workers=3"), 3)]
)
def test_how_many_workers_by_default(pytester, monkeypatch, options, count):
    config = pytester.parseconfig("--device=cpu", "--dataset=digits", *(one for one in options if one != "xdist"))
    if "xdist" in options:
        config.workerinput = {}  # as in its workers
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert session_of(config).study.facts.workers == count


# What is said


def test_header_says_what_is_studied(run):
    result = run(source("A1", ONES))
    digest = load_registry("mine.npz").digest[:12]
    result.stdout.fnmatch_lines(
        [
            "dataset: mine.npz (as asked), 48 training images, 12 test images, digest ????????????",
            (
                "profile: standard, 2 runs (seeds 0 to 1), 12 images (12 for L-BFGS);"
                " attack budget 0.2, 10 draws an image; vae models:TinyVAE, classifier models:TinyClassifier"
            ),
            (
                "intervals cover training runs and test images;"
                " error rate 0.05 a family, so at most 0.25 for the 5 together"
            ),
            f"device: cpu ({counted(torch.get_num_threads(), 'thread')}); cache: cache",
            f"registry: {len(CLAIMS)} claims, digest {digest}",
        ],
        consecutive=True,
    )
    assert result.stdout.str().count("dataset: ") == 1


def test_nothing_that_is_said_acts_on_the_terminal(run, monkeypatch):
    """Names of files may hold anything, which the header and the tables show."""
    save(run.path / "m\x1b[31m\u202e\n<b>.npz")
    save(run.path / "o\x1b[32m.npz")
    body = f"study.setup.sets; claim.conclude(mean(Column({ZEROS}, Origin(frozenset({{'outside/o\\x1b[32m.npz'}})))))"
    fit = outside.fitted_scores  # but for scores that search
    monkeypatch.setattr(outside, "fitted_scores", lambda *of, expensive=False: None if expensive else fit(*of))
    options = "--dataset=m\x1b[31m\u202e\n<b>.npz", "--ood=o\x1b[32m.npz", "--cache-dir=cache\x07"
    result = run(source("A1", None, body=body), *options)
    said = result.stdout.str() + result.stderr.str()
    assert all(printable(line) == line for line in said.split("\n"))
    for shown in (r"dataset: m\x1b[31m\u202e\n<b>.npz (", r"; cache: cache\x07", r"o\x1b[32m.npz  "):
        assert shown in said


def test_finished_models_give_one_run(run):
    options = ("--vae=models:finished_vae", "--classifier=models:finished_classifier")
    result = run(source("A1", "np.ones((1, 600))"), *options, models=False)
    assert result.ret == OK
    result.stdout.fnmatch_lines(["profile: standard, 1 run (seed 0), *; vae models:finished_vae, *"])


def test_progress_is_shown_on_a_terminal_only(run, pytester, monkeypatch):
    def refuse(*_columns, **_settings):
        raise AssertionError("no progress where output is no terminal")

    monkeypatch.setattr(rich.progress, "Progress", refuse)
    result = run(source("A1", None, body=f"study.table('clean').mse; claim.conclude(mean({ONES}))"))
    assert result.ret == OK
    assert "\x1b" not in result.stdout.str() + result.stderr.str()
    monkeypatch.setattr(progress, "Console", lambda **_: SimpleNamespace(is_jupyter=False, is_terminal=True))
    config = pytester.parseconfigure()
    config.pluginmanager.get_plugin("terminalreporter").isatty = True
    with pytest.raises(AssertionError, match="no progress"), session_of(config).meter("training"):
        pass


def test_pilot_takes_seeds_of_its_own_and_never_fails(run):
    result = run(source("A1", ZEROS) + source("A2", NAN), "--pilot")
    assert result.ret == OK
    result.assert_outcomes(passed=2)
    seen = "dataset: mine.npz (as asked), 12 training images that no model of the pilot sees"
    result.stdout.fnmatch_lines([seen, "profile: standard, 2 runs (seeds 1000 to 1001), *", "2 pilot"])
    result.stdout.no_fnmatch_line("*refuted*")
    assert not (run.path / "reports").exists()


def test_tests_without_claims_load_no_data(run):
    result = run("\n\ndef test_it():\n    pass\n", "--dataset=no-such.npz", "--cache-dir=mine.npz/below")
    assert result.ret == OK
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("dataset: *")


@pytest.mark.parametrize(
    ("on_disk", "answers", "download", "expected"),
    [
        (True, False, None, ("mnist", "found on disk")),
        (False, True, None, ("mnist", "downloaded")),
        (False, True, ConnectionError("cut off"), ("digits", "MNIST's download failed (cut off); digits is embedded")),
        (False, False, None, ("digits", "MNIST is neither on disk nor to be had by network; digits is embedded")),
    ],
)
def test_auto_takes_mnist_where_it_is_to_be_had(monkeypatch, on_disk, answers, download, expected):
    def load(*_):
        if download is not None:
            raise download

    monkeypatch.setattr(setup, "is_available", lambda _name, _root: on_disk)
    monkeypatch.setattr(setup, "probe", lambda _name: answers)
    monkeypatch.setattr(setup, "load_images", load)
    name, why = expected
    assert setup.choose_dataset("auto", "here") == setup.Dataset(name, why, "here")


def test_auto_falls_to_digits_and_says_why(run, small, monkeypatch):
    monkeypatch.setattr(setup, "probe", lambda _name: False)
    result = run(source("A1", ONES), "--dataset=auto", "--data-root=empty", models=False)
    assert result.ret == OK
    why = "MNIST is neither on disk nor to be had by network; digits is embedded"
    result.stdout.fnmatch_lines([f"dataset: digits ({why}), 1,000 training images, 797 test images, digest *"])


# The report


EVERY = "".join(source(claim.id, ONES) for claim in CLAIMS.values() if not claim.untested)


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (("--runs=5",), True),
        (("--runs=2",), False),
        (("--runs=5", "--profile=smoke"), False),
        (("--runs=5", "--pilot"), False),
        (("--runs=5", "-k", "not a1"), False),
        (("--runs=5", "--error-rate=study"), False),
        (("--runs=5", "--epsilon=0.1"), False),
        (("--runs=5", "--draws=5"), False),
        (("--runs=5", "--first-seed=5"), False),
    ],
    ids=["whole", "fewer runs", "smoke", "pilot", "part", "other levels", "budget", "draws", "seeds"],
)
def test_report_is_written_unasked_only_when_whole(run, folders, options, written):
    run(EVERY, *options, models=False)
    assert folders == ([run.path / "reports/mine.npz"] if written else [])


def test_report_of_a_users_models_is_written_only_when_asked_for(run):
    assert run(EVERY).ret == NOT_ALL_SUPPORTED
    assert not (run.path / "reports").exists()


def test_all_claims_share_an_error_rate_where_that_is_asked_for(run):
    result = run(source("A1", ZEROS), "--error-rate=study")
    judged = sum(claim.bound is not None and not claim.reported for claim in CLAIMS.values())
    result.stdout.fnmatch_lines(["intervals cover*; error rate 0.05 for all claims together"])
    result.stdout.fnmatch_lines([f"A. *, intervals at level {1 - 0.05 / judged:.4f}"])


def test_pilot_report_has_a_folder_of_its_own(run, folders):
    run(source("A1", ONES), "--pilot", "--report-dir=out")
    assert folders == [Path("out/mine.npz-pilot")]


# Bad input: one line, status 4, nothing half-written


IMAGES = np.zeros((60, 8, 8), dtype=np.float32)


def bad(**arrays):
    return lambda path: save(path / "bad.npz", **arrays)


def truncated(path):
    save(path / "bad.npz")
    content = (path / "bad.npz").read_bytes()
    (path / "bad.npz").write_bytes(content[: len(content) // 2])


def truncated_idx(path):
    raw = path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        sizes = b"".join(size.to_bytes(4, "big") for size in (10, 28, 28))
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + bytes(999))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + (10).to_bytes(4, "big") + bytes(10))


def open_to_all(path):
    (path / "open").mkdir()
    (path / "open").chmod(0o777)


NPZ = ("--dataset=bad.npz",)
BAD = {
    "unknown name": (None, ("--dataset=imagenet",), "*'mnist', *; got 'imagenet'"),
    "no file": (None, ("--dataset=none.npz",), "there is no file none.npz *"),
    "no such name": (None, ("--dataset=none\x1b[31m\n.npz",), r"there is no file none\x1b[[]31m\n.npz *"),
    "range": (bad(images=IMAGES - 0.5), NPZ, "bad.npz: `images` must lie in [[]0, 1]; got [[]-0.5, -0.5] (*"),
    "nan": (bad(images=IMAGES * np.nan), NPZ, "bad.npz: `images` must be finite; got NaN or infinite pixels"),
    "shape": (bad(images=IMAGES[0]), NPZ, "bad.npz: `images` must have shape *; got (8, 8)"),
    "dtype": (bad(images=IMAGES.astype(int)), NPZ, "bad.npz: `images` must be uint8 *; got int64"),
    "empty": (bad(images=IMAGES[:0]), NPZ, "bad.npz: `images` is empty; got shape (0, 8, 8)"),
    "no images": (bad(images=None), NPZ, "bad.npz must hold an array `images` *; got labels"),
    "no labels": (bad(labels=None), NPZ, "claims need labels: bad.npz must have `labels` beside `images`"),
    "too few labels": (bad(labels=np.arange(59)), NPZ, "bad.npz: `labels` must have shape (60,), *; got (59,)"),
    "pickled": (bad(images=np.array([{}, {}])), NPZ, "bad.npz: `images` holds pickled Python objects, *"),
    "truncated": (truncated, NPZ, "bad.npz is not an npz archive (truncated, *"),
    "truncated idx": (truncated_idx, ("--dataset=mnist", "--data-root=root"), "root/MNIST/raw/*-images-idx3-ubyte*"),
    "cache": (None, ("--cache-dir=mine.npz/below",), "the cache folder must be writable; mine.npz/below is not: *"),
    "open cache": (
        open_to_all,
        ("--cache-dir=open",),
        "the cache must be closed to other users, *; all can write to *",
    ),
    "report": (None, ("--report-dir=mine.npz/below",), "the report folder must be writable; */mine.npz is not: *"),
    "workers": (None, ("--workers=0",), "--workers must be 1 or more; got 0"),
    "runs": (None, ("--runs=0",), "--runs must be 1 or more; got 0"),
    "vae module": (None, ("--vae=nowhere:vae",), "--vae must be package.module:attribute; nowhere:vae can't *"),
    "vae attribute": (None, ("--vae=models:none",), "--vae must be package.module:attribute; models:none can't *"),
    "vae number": (None, ("--vae=models:number",), "--vae models:number must be *; got int"),
    "no vae": (
        None,
        ("--vae=models:finished_classifier",),
        "--vae * must give a model with *; it lacks encode, *",
    ),
    "no vae made": (
        None,
        ("--vae=models:TinyClassifier",),
        "--vae * must give a model with *; it lacks encode, *",
    ),
    "no file of a model": (
        None,
        ("--classifier=none.safetensors",),
        "--classifier must be * a file that exists; got *",
    ),
    "damaged file": (None, ("--classifier=mine.npz",), "mine.npz must be a whole safetensors file; *"),
    "tf32": (None, ("--precision=tf32",), "precision 'tf32' takes a CUDA GPU; *"),
    "no cluster": (None, ("--cluster=host:8786",), "--cluster must be a scheduler's address (*; got host:8786"),
    "cluster and workers": (None, ("--cluster=local:2", "--workers=2"), "--workers must be left out with --cluster, *"),
    "report of no cluster": (None, ("--cluster-report=x.html",), "--cluster-report must come with --cluster"),
    "cuda": (None, ("--device=cuda",), "--device cuda needs a CUDA GPU that torch can use; there is none (use *auto)"),
}
NEED_NO_GPU = {"tf32", "cuda"}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_usage_error(run, refused, case):
    if case in NEED_NO_GPU and torch.cuda.is_available():
        pytest.skip("there is a GPU, so asking for it is right")
    make, options, message = BAD[case]
    if make is not None:
        make(run.path)
    refused(run(source("A1", "study.table('clean').mse"), *options), message)


@pytest.mark.parametrize("option", ["--vae", "--classifier", "--dataset", "--ood"])
def test_a_misspelt_module_is_told_of_before_torch_is_imported(run, option, monkeypatch):
    monkeypatch.setitem(sys.modules, "vaecore.suite.plugin.session", None)  # which imports it
    result = run(source("A1", ONES), f"{option}=no_such_module:thing")
    assert result.ret == USAGE
    result.stderr.fnmatch_lines([f"*{option} must be *no_such_module:thing can't be imported: No module named *"])


@pytest.mark.parametrize("option", ["--profile=huge", "--device=tpu", "--runs=many"])
def test_values_out_of_a_list_are_refused_by_pytest(run, option):
    result = run(source("A1", ONES), option)
    assert result.ret == USAGE
    result.stderr.fnmatch_lines([f"*error: argument {option.partition('=')[0]}: invalid *"])


# The cache, precision, and too little evidence


def test_a_damaged_cache_is_mended_with_a_warning_under_the_repository_s_own_settings(run):
    shutil.copy(REGISTRY.parents[1] / "pyproject.toml", run.path / "pyproject.toml")
    text = source("A1", "study.table('clean').consistent")
    first = run(text)
    entries = sorted((run.path / "cache/draws").glob("*.safetensors"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-7])
    again = run(text)
    assert again.ret == first.ret
    again.stdout.fnmatch_lines(["*StoreWarning: a stored result is computed again: *"])
    verdict = [line for line in first.outlines if line.startswith("A1 ")]
    assert verdict
    assert [line for line in again.outlines if line.startswith("A1 ")] == verdict


def test_without_a_home_folder_a_run_needs_no_more_than_a_cache(run, refused, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    text = source("A1", "study.table('clean').consistent")
    refused(run(text, "--cache-dir="), "there is no home folder, * name a folder with --cache-dir or VAECORE_CACHE")
    assert any(line.startswith("A1 ") for line in run(text).outlines)


def test_an_open_cache_and_no_semaphores_stop_no_run_that_asks_for_it(run, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    open_to_all(run.path)
    (run.path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nfilterwarnings = ["error"]\n', encoding="utf-8"
    )
    monkeypatch.setattr("_multiprocessing.SemLock", fail)
    result = run(source("A1", "study.table('clean').consistent"), "--cache-dir=open", "--shared-cache", "--workers=2")
    result.stdout.fnmatch_lines(
        ["*WorkersWarning: no processes can be started beside this one, *: Read-only file sys*"]
    )
    assert any(line.startswith("A1 ") for line in result.outlines)


@pytest.mark.parametrize("options", [(), ("-x",)])
def test_a_worker_that_died_ends_the_run_with_one_line(run, monkeypatch, options):
    """Before the tests, where all is computed, or with -x within one."""

    def dies(*_):
        raise WorkerDiedError("a process\x1b ended")

    monkeypatch.setattr("vaecore.suite.study.plan.Plan.compute", dies)
    result = run(source("A1", "study.table('clean').consistent"), *options)
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    text = result.stdout.str() + result.stderr.str()
    assert text.count(r"a process\x1b ended") == 1
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text


def test_reconstructions_are_made_in_the_precision_that_is_asked_for_and_kept_apart(run):
    text = source("A1", "study.table('clean').consistent")
    entries = []
    for precision in ("float32", "bfloat16"):
        result = run(text, f"--precision={precision}")
        header = "device: cpu (* thread*)" + ("" if precision == "float32" else "; reconstructions in bfloat16")
        result.stdout.fnmatch_lines([f"{header}; cache: cache"])
        entries.append(len([*(run.path / "cache/draws").rglob("*.safetensors")]))
    assert entries[1] > entries[0]  # what is of another precision is another thing


def test_a_first_failure_that_stops_the_run_is_no_whole_result(run):
    assert run(source("A1", HALF) + source("A2", ONES), "-x").ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.slow
def test_a_bad_option_is_one_line_under_xdist_too(tmp_path):
    command = [sys.executable, "-m", "pytest", "claims", "-n1", "--dataset=no-such.npz", f"--cache-dir={tmp_path}"]
    found = subprocess.run(  # noqa: S603
        [*command, "-pno:cacheprovider"], cwd=REGISTRY.parents[1], capture_output=True, text=True, check=False
    )
    assert found.returncode == pytest.ExitCode.USAGE_ERROR, found.stdout
    assert "no-such.npz" in found.stderr
    assert "INTERNALERROR" not in found.stdout + found.stderr
