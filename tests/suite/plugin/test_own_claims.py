"""Are claims of a user's own judged as this package's are, and does another project never notice that it is there?"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from vaecore.suite.cli import main
from vaecore.suite.judging.findings import REGISTRY
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.report.compare import compare
from vaecore.suite.results import load
from vaecore.toolkit import digest

OK, USAGE, NOT_ALL_SUPPORTED = 0, pytest.ExitCode.USAGE_ERROR, 8
ENTRY = """
[X1]
kind = "finding"
sentence = "So it is."
estimand = "share"
source = "here"
no_effect = "> 0.5"
"""
TITLE = '[families]\nX = "Things of mine"\n'
TEST = """
import numpy as np
import pytest
from vaecore.suite import mean


@pytest.mark.claim("X1")
def test_it(study, claim):
    \"\"\"So it is.\"\"\"
    claim.conclude(mean(np.ones((2, 600))))
"""


@pytest.fixture
def own(project):
    """Give a function that writes a folder of claims into a project, which it has as `project`."""

    def write(registry=TITLE + ENTRY, test=TEST, folder="mine"):
        (project.path / folder).mkdir(exist_ok=True)
        (project.path / folder / "registry.toml").write_text(registry, encoding="utf-8")
        (project.path / folder / f"test_{folder}.py").write_text(test, encoding="utf-8")

    write.project = project
    return write


# Registries beside tests


def test_own_claims_are_judged_beside_their_registry(own):
    own()
    result = own.project("mine")
    assert result.ret == OK
    result.stdout.fnmatch_lines(
        [
            f"registry: 1 claim, digest {digest(own.project.path / 'mine/registry.toml')[:12]}",
            "bounds: none for mine.npz, judged against no effect; *",
            "X. Things of mine, intervals at level 0.95*",
            "X1 * So it is.*",
            " * 1.000 [[]* bound > 0.50, *: *supported*",
            "1 supported",
        ]
    )
    result.stdout.no_fnmatch_line("*not run*")


def test_what_a_registry_says_does_not_act_on_the_terminal(own):
    own(TITLE.replace("Things", "Things\\u001b[31m") + ENTRY.replace("> 0.5", "> 1"))
    result = own.project("mine", "--report-dir=out\x07")
    assert result.ret == NOT_ALL_SUPPORTED
    lines = [r"X. Things\x1b[[]31m of mine, *", r"Report: out\x07/mine.npz-own/index.html"]
    result.stdout.fnmatch_lines(lines)
    assert "\x07" not in result.stdout.str()
    assert "\x1b" not in result.stdout.str()


def test_a_family_of_ones_own_has_an_error_rate_of_its_own_and_leaves_ours_alone(own):
    own(TITLE + ENTRY + ENTRY.replace("[X1]", "[X2]") + ENTRY.replace("[X1]", "[INK1a]"))
    file = own.project.path / "mine/registry.toml"
    alone, joined = load_registry("mine.npz"), load_registry("mine.npz", REGISTRY, file)
    assert [joined.claims[name].level for name in ("X1", "X2", "INK1a")] == [0.975, 0.975, 0.95]
    assert all(joined.claims[name] == claim for name, claim in alone.claims.items())
    assert joined.families == {**alone.families, "X": "Things of mine", "INK": ""}
    assert joined.digest not in {alone.digest, load_registry("mine.npz", file).digest}


BUILT_IN = TEST.partition("@pytest")[0] + "".join(
    f'\n\n@pytest.mark.claim("{claim.id}")\ndef test_{claim.id}(study, claim):\n    """{claim.stated["sentence"]}"""\n'
    "    claim.conclude(mean(np.ones((5, 600))))\n"
    for claim in load_registry("mine.npz").claims.values()
    if not claim.outside
)


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (("mine", "ours"), ["mine.npz"]),
        (("ours",), ["mine.npz"]),
        (("mine", "ours", "-k", "not X1"), []),
        (("mine", "ours", "-k", "not A1"), []),
        (("mine",), []),
    ],
)
def test_a_whole_run_is_recognised(own, folders, options, written):
    own()
    own("", BUILT_IN, "ours")
    (own.project.path / "ours/registry.toml").unlink()
    own.project("--runs=5", *options, models=False)
    assert [folder.name for folder in folders] == written


def test_results_of_own_claims_alone_are_kept_where_that_is_asked_for(own):
    own(test=TEST.replace("np.ones((2, 600))", "study.table('clean').doubt * 0 + 1"))
    result = own.project("mine", "--report-dir=out")
    assert result.ret == OK
    result.stdout.fnmatch_lines(["Report: out/mine.npz-own/index.html"])
    folder = own.project.path / "out/mine.npz-own"
    assert {path.name for path in folder.iterdir()} == {"results.json", "index.html", "claims.csv", "conditions.csv"}
    assert "Things of mine" in (folder / "index.html").read_text(encoding="utf-8")
    results = load(folder)
    assert list(results["conditions"]) == ["clean"]
    assert results["families"] == {"X": "Things of mine"}
    assert [one.claim for one in compare(results, results).changes] == ["X1"]


def test_bounds_for_data_of_any_name_may_stand_in_the_registry(own, refused):
    own(ENTRY + '"mine.npz" = { above = 0.999, date = 2026-11-25 }\n')
    message = "--bounds is for studies that have no bounds; those of mine.npz are registered *"
    refused(own.project("mine", "--pilot", "--bounds=bounds.toml"), message)
    result = own.project("mine")
    assert result.ret == NOT_ALL_SUPPORTED
    result.stdout.fnmatch_lines(["* bound > 0.999, *: ~inconclusive", "  X1: inconclusive: *"])
    result.stdout.no_fnmatch_line("bounds: none *")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[X1]", "[A1]", ": a family must be the registry's own; A is one of claims/registry.toml (start *"),
        ("[X1]", "[x1]", ", claim x1: an id must be letters and a number, as in X1 *"),
        ("> 0.5", "0.5", ", claim X1: no_effect must be like \"> 0.5\", *; got '0.5'"),
        ("> 0.5", "in 2 1", ", claim X1: no_effect must be like *; got 'in 2 1'"),
        ('"here"', "3", ", claim X1: source must be a text; got 3"),
        ("source", "sauce", ", claim X1: unknown key sauce; no source"),
        ("source =", "mine = { over = 1 }\nsource =", ", claim X1: unknown key mine.over; mine must have above, *"),
        (ENTRY, "X1 = 3\n", ", claim X1: a claim must be a table; got 3"),
        (ENTRY, f'[families]\nY = "?"\n{ENTRY}', ": families must give the titles of families that have *"),
        ("[X1]", "[X1", " must be a TOML file; it can't be read: *"),
    ],
)
def test_a_malformed_registry_is_refused_by_name(own, refused, old, new, message):
    own(ENTRY.replace(old, new))
    refused(own.project("mine"), f"mine/registry.toml{message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[X1]", "[X2]", "claim X1 must be registered in mine/registry.toml; *"),
        ("So it", "Thus it", "the docstring must start with the registered sentence of X1; expected *"),
    ],
)
def test_a_test_of_no_registered_claim_is_refused(own, refused, old, new, message):
    own(ENTRY.replace(old, new))
    refused(own.project("mine"), f"mine/test_mine.py::test_it: {message}")


def test_two_registries_cannot_share_a_family(own, refused):
    own()
    own(ENTRY.replace("[X1]", "[X2]"), TEST.replace('"X1"', '"X2"'), "more")
    message = "more/registry.toml: a family must be the registry's own; X is one of mine/*"
    refused(own.project("mine", "more"), message)


def test_a_test_beside_a_registry_cannot_conclude_a_claim_of_ours(own, refused):
    sentence = load_registry("mine.npz").claims["A1"].sentence
    own(test=TEST + TEST.replace('"X1"', '"A1"').replace("So it is.", sentence).replace("test_it", "test_a"))
    (own.project.path / "test_ours.py").write_text(BUILT_IN, encoding="utf-8")
    message = "mine/test_mine.py::test_a: claim A1 must be registered in mine/registry.toml; *"
    refused(own.project("mine", "test_ours.py"), message)


@pytest.mark.slow
def test_the_controller_of_xdist_learns_of_a_registry_and_writes_bounds_and_a_report_and_none_of_ours(own):
    """It has no tests, so it knows no registry but ours, and would take a report that is asked for as one of ours."""
    own()
    text = "from vaecore.suite.study import collect\ncollect.tasks = lambda study: 1 / 0\n"
    (own.project.path / "conftest.py").write_text(text, encoding="utf-8")
    options = ("-n1", "--pilot", "--bounds=bounds.toml", "--report-dir=out")
    result = own.project("mine", *options, inprocess=False)
    assert result.ret == OK
    result.stdout.fnmatch_lines(["X. Things of mine, *", "Bounds: bounds.toml, 1 claim with a bound, 0 without *"])
    assert "ZeroDivisionError" not in result.stdout.str() + result.stderr.str()
    assert [one["claim"] for one in load(own.project.path / "out/mine.npz-own-pilot")["claims"]] == ["X1"]


# A number of one's own for each image


def brightest(run, shard, power=1):
    CALLS.append((run.seed, len(shard.pixels)))
    return shard.pixels.amax(dim=(1, 2, 3)) ** power + run.seed


def of_another_shape(run, shard):
    return shard.pixels


CALLS = []


def test_each_image_gives_a_row_for_each_run_in_the_order_of_tables(tiny):
    CALLS.clear()
    values = tiny.each_image(brightest)
    pixels = tiny.setup.test.pixels[torch.from_numpy(np.array(tiny.table("clean")["index"][0]))]
    assert values.shape == (2, 12)
    assert np.allclose(values, pixels.amax(dim=(1, 2, 3)).numpy() + np.array([[0], [1]]))
    assert CALLS == [(0, 12), (1, 12)]
    assert np.array_equal(tiny.each_image(brightest), values)
    assert len(CALLS) == 2  # it was kept
    assert np.allclose(tiny.each_image(brightest, 5, power=2), pixels[:5].amax(dim=(1, 2, 3)).numpy() ** 2 + [[0], [1]])
    assert CALLS[2:] == [(0, 5), (1, 5)]


def test_each_image_refuses_what_it_could_not_know_again_or_use(tiny):
    with pytest.raises(ValueError, match=r"must be a module's or a notebook's own, to be known again; got .*<lambda>"):
        tiny.each_image(lambda _run, shard: shard.pixels[:, 0, 0, 0])
    with pytest.raises(ValueError, match=r"each image must get one number, in a tensor \(12,\); got \(12, 1, 8, 8\)"):
        tiny.each_image(of_another_shape)
    for images in (0, 13):
        with pytest.raises(ValueError, match=f"images must be from 1 to 12, those that are looked at; got {images}"):
            tiny.each_image(brightest, images)


# The worked example


EXAMPLE = (Path(__file__).parents[3] / "docs/own-claims.md").read_text(encoding="utf-8")
LINEAR = """
import torch
from sklearn.datasets import load_digits


class VAE(torch.nn.Module):
    \"\"\"Principal components of some digits, which ones by the seed.\"\"\"

    def __init__(self, seed):
        super().__init__()
        images = torch.tensor(load_digits().images / 16, dtype=torch.float32).flatten(1)
        images = images[torch.randint(len(images), (500,), generator=torch.Generator().manual_seed(seed))]
        self.register_buffer("mean", images.mean(0))
        self.register_buffer("axes", torch.linalg.svd(images - self.mean, full_matrices=False).Vh[:10])

    def encode(self, images):
        mean = (images.flatten(1) - self.mean) @ self.axes.T
        return mean, torch.full_like(mean, -9.0)

    def decode(self, latents):
        return (latents @ self.axes + self.mean).clamp(0, 1).view(-1, 1, 8, 8)


def classifier(seed):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
"""


@pytest.mark.slow
def test_the_worked_example_works(pytester, monkeypatch, capsys):
    """Its files, then its commands in order; with linear models, as the reference models take a minute to train."""
    monkeypatch.chdir(pytester.path)
    for name, body in re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", EXAMPLE, re.DOTALL):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(body, encoding="utf-8")
    pytester.makepyfile(linear=LINEAR)
    quick = ["--vae=linear:VAE", "--classifier=linear:classifier", "--cache-dir=cache", "--workers=1", "--device=cpu"]
    quick += ["-pno:cacheprovider", "-pno:hypothesispytest"]
    lines = [line for block in re.findall(r"```console\n(.*?)```", EXAMPLE, re.DOTALL) for line in block.splitlines()]
    assert [line.split()[0] for line in lines] == ["python", "python", "pytest", "pytest", "pytest", "vaecore"]
    assert lines[0].startswith("python -m pip install ")
    exec(compile(Path(shlex.split(lines[1])[1]).read_text(encoding="utf-8"), "make_images.py", "exec"), {})  # noqa: S102
    pilot, judged, more = (pytester.runpytest_inprocess(*shlex.split(line)[1:], *quick) for line in lines[2:5])
    assert pilot.ret == OK
    pilot.stdout.fnmatch_lines(["X. Covered images, *", "Bounds: bounds.toml, 2 claims with a bound, 0 without *"])
    assert judged.ret == OK
    judged.stdout.fnmatch_lines(["bounds: bounds.toml, digest *", "2 supported", "Report: reports/my-images.npz-own/*"])
    more.stdout.fnmatch_lines(["profile: standard, 6 runs *", "Report: others/my-images.npz-own/*"])
    capsys.readouterr()
    assert main(shlex.split(lines[5])[1:]) == OK
    assert "No movement seen: 2 of 2 claims" in capsys.readouterr().out
