"""The benchmark of attacks: peers under one signature, success asked anew, tables, and reasons for gaps."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bench import __main__ as command
from bench import peers
from bench.measure import Victims, l2_ratio, shown
from bench.plot import plot
from bench.table import comparison, digits, local_optimality, medians, plain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def victims():
    """Twelve grey images that a small network labels as it pleases, and for each another class as its target."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    model.eval().requires_grad_(requires_grad=False)
    images = 0.2 + 0.6 * torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    return Victims(model, images, labels, (labels + 1) % 10)


def need(library):
    """Skip, saying why, where a peer is not installed."""
    try:
        peers.load(library)
    except ImportError as error:
        pytest.skip(str(error))


# Peers


def test_a_missing_peer_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError, match=r"foolbox cannot be imported: .* \(uv pip install -e '\.\[peers\]'\)"):
        peers.load("foolbox")


NEAREST = [(peers.adv_lib_nearest, attack) for attack in ("ddn", "fmn", "alma", "pdgd")]
NEAREST += [(peers.foolbox_nearest, "ddn"), (peers.foolbox_nearest, "fmn"), (peers.torchattacks_nearest, "cw")]


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize(("attack", "name"), NEAREST, ids=[f"{a.__name__}-{n}" for a, n in NEAREST])
def test_peers_find_the_nearest_point_of_a_hyperplane(attack, name, targeted):
    need(attack.__name__.removesuffix("_nearest"))
    weight = torch.linspace(-4, 4, 16)

    class Line(nn.Module):
        def forward(self, images):  # class 0 is ahead by 0.8 at grey images
            ahead = 0.8 - (images.flatten(1) - 0.5) @ weight
            return torch.stack([ahead, 0 * ahead, 0 * ahead - 3, 0 * ahead - 4], dim=1)  # ALMA's loss takes four

    grey, classes = torch.full((3, 1, 4, 4), 0.5), torch.full((3,), int(targeted))
    adversarial = attack(Line().eval(), grey, classes, attack=name, steps=300, targeted=targeted)
    assert (Line()(adversarial).argmax(dim=1) == 1).all()
    l2 = (adversarial - 0.5).flatten(1).norm(dim=1)
    if (attack, name) != (peers.foolbox_nearest, "fmn"):  # it succeeds, but stays ten times as far, whatever the steps
        torch.testing.assert_close(l2, (0.8 / weight.norm()).expand(3), rtol=0.15, atol=0)


BUDGETED = [(peers.torchattacks_fgsm, {"epsilon": 0.1}), (peers.torchattacks_square, {"epsilon": 0.1, "queries": 50})]
for budget in ({"epsilon": 0.1, "norm": "linf"}, {"epsilon": 0.5, "norm": "l2"}):
    steps = budget | {"steps": 10, "step_size": budget["epsilon"] / 4}
    BUDGETED += [(peers.foolbox_fgsm, budget), (peers.foolbox_pgd, steps), (peers.torchattacks_pgd, steps)]


@pytest.mark.parametrize(
    ("attack", "setting"), BUDGETED, ids=[f"{a.__name__}-{s.get('norm', 'linf')}" for a, s in BUDGETED]
)
def test_peers_use_their_budget_and_succeed(victims, attack, setting):
    need(attack.__name__.partition("_")[0])
    state, attacked = torch.get_rng_state(), (victims.classifier, victims.images, victims.labels)
    adversarial = attack(*attacked, **setting)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)  # whatever others have drawn
    assert torch.equal(attack(*attacked, **setting), adversarial)
    order = torch.inf if setting.get("norm", "linf") == "linf" else 2
    sizes = torch.linalg.vector_norm((adversarial - victims.images).flatten(1), ord=order, dim=1)
    assert (sizes <= setting["epsilon"] * 1.0001).all()
    assert sizes.max() > setting["epsilon"] * 0.99
    assert victims.norms(adversarial, targeted=False).isfinite().float().mean() >= 0.5
    assert victims.norms(victims.images, targeted=False).isnan().all()


def test_one_query_of_square_is_one_query(victims):
    need("torchattacks")
    with shown(victims.classifier) as sizes:
        peers.torchattacks_square(victims.classifier, victims.images, victims.labels, epsilon=0.01, queries=3)
    assert len(sizes) == 2 + 3  # clean images before, and images after the search


# Measuring


def test_norms_are_of_images_that_fool_the_classifier_and_lie_in_the_box(victims):
    gap = victims.images[:1] - victims.images
    same_target = replace(victims, targets=victims.labels[:1].expand(12))
    l2 = same_target.norms(victims.images + gap, targeted=True)
    torch.testing.assert_close(l2, gap.flatten(1).norm(dim=1))
    assert victims.norms(victims.images, targeted=True).isnan().all()
    outside = victims.images.clone()
    outside[:, 0, 0, 0] = 1.001
    unlike = replace(victims, labels=(victims.labels + 1) % 10)
    assert unlike.norms(victims.images, targeted=False).eq(0).all()
    assert unlike.norms(outside, targeted=False).isnan().all()


def test_the_ratio_of_norms_is_ours_over_theirs_where_neither_failed():
    ours, theirs = torch.tensor([1.0, 2.0, torch.nan, 1.0]), torch.tensor([2.0, 2.0, 1.0, torch.nan])
    assert l2_ratio(ours=ours, theirs=theirs) == pytest.approx([0.75, 0.975])


def test_shown_counts_images_while_it_is_asked_to(victims):
    with shown(victims.classifier) as sizes:
        victims.classifier(victims.images)
        victims.classifier(victims.images[:5])
    victims.classifier(victims.images)
    assert sizes == [12, 5]


# Tables


def entry(place, group, **info):
    return {"group": group, "fullname": f"bench/test_it.py::test_{place}", "extra_info": info}


LBFGS, NEAR = "L-BFGS, targeted, cpu", "smallest L2, targeted, cpu"
RATIOS = {"vaecore": [1.0019, 1.027], "vaecore, 80": [0.99, 1.01]}
MACHINE = {"machine": "x86_64", "cpu": {"brand_raw": "Some CPU"}, "torch": "2.15.0", "torch_threads": 1, "gpu": None}
RUN = {
    "machine_info": MACHINE,
    "benchmarks": [
        entry(0, LBFGS, way="vaecore", ms_per_image=8.04, fraction_of_limit=0.256, median_l2=1.6773, success=1.0),
        entry(1, "PGD, cpu", way="foolbox", ms_per_image=0.0512, success=0.5),
        entry(2, LBFGS, way="scipy", ms_per_image=1169.6, median_l2=float("nan"), success=0.0, l2_ratio=RATIOS),
        entry(3, "other"),
        entry(4, NEAR, way="vaecore, 80", line="vaecore", ms_per_image=8.0, evaluations=94.0, l2=[1.0, 2.0, 4.0, 0.0]),
        entry(
            5,
            NEAR,
            way="adv_lib, DDN 100",
            line="adv_lib, DDN",
            ms_per_image=9.0,
            evaluations=100.0,
            l2=[1.5, 1.0, None, 0.0],
        ),
    ],
}
PLAIN = """\
task                   way      ms an image  images/s  of limit  times vaecore's  median L2  success
L-BFGS, targeted, cpu  vaecore         8.04       124       26%              1.0      1.677   100.0%
                       scipy          1,170     0.855         -              145          -     0.0%
PGD, cpu               foolbox       0.0512    19,531         -                -          -    50.0%"""
MARKDOWN = """\
Speed and quality:

| task | way | ms an image | images/s | of limit | times vaecore's | median L2 | success |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| L-BFGS, targeted, cpu | vaecore | 8.04 | 124 | 26% | 1.0 | 1.677 | 100.0% |
| L-BFGS, targeted, cpu | scipy | 1,170 | 0.855 | - | 145 | - | 0.0% |
| PGD, cpu | foolbox | 0.0512 | 19,531 | - | - | - | 50.0% |

Smallest L2 norms against time:

| task | way | ms an image | evaluations | median L2 | mean | 95% | success | optimality |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| smallest L2, targeted, cpu | vaecore, 80 | 8.00 | 94 | 1.500 | 1.750 | 3.700 | 100.0% | 0.8333 |
| smallest L2, targeted, cpu | adv_lib, DDN 100 | 9.00 | 100 | 1.000 | 0.833 | 1.450 | 75.0% | 0.9167 |

L2 norm of vaecore's images over the peer's, image by image: median (95%):

| task | L2 over that of | vaecore | vaecore, 80 |
| --- | --- | ---: | ---: |
| L-BFGS, targeted, cpu | scipy | 1.002 (1.027) | 0.990 (1.010) |

Measured on Some CPU; torch 2.15.0, 1 thread.
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Give a function that runs `python -m bench table` on files of these texts; None for a file that is missing."""

    def run(*texts):
        paths = [tmp_path / f"{place}.json" for place in range(len(texts))]
        for path, text in zip(paths, texts, strict=True):
            if text is not None:
                path.write_text(text)
        monkeypatch.setattr(sys, "argv", ["bench", "table", *map(str, paths)])
        return command.main()

    return run


def test_the_table_for_the_terminal():
    assert plain(comparison(RUN["benchmarks"])) == PLAIN


def test_local_optimality_is_the_area_that_is_left_of_what_the_best_of_all_leaves():
    """By hand: clipped at the largest best distance, 4, clean images take 4 * 3 / 4, the best 6 / 4 and own 8.5 / 4."""
    own, best = [1.5, 3.0, torch.inf, 0.0], [1.0, 1.0, 4.0, 0.0]
    assert local_optimality(own, best) == pytest.approx(1 - (8.5 - 6) / (12 - 6))
    assert local_optimality(best, best) == 1
    assert local_optimality([torch.inf] * 3 + [0.0], best) == 0
    assert local_optimality([torch.inf], [torch.inf]) != local_optimality([torch.inf], [torch.inf])  # NaN


def test_the_figure_of_norms_against_time_shows_each_attack_and_marks_failures(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("bench.plot.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    assert plot(RUN["benchmarks"], "Measured.", tmp_path / "figure.png") == [tmp_path / "figure.png"]
    median, mean, high = drawn[0].axes
    assert [axis.get_title() for axis in (median, mean, high)] == [
        f"{NEAR}: {n}" for n in ("median", "mean", "95% quantile")
    ]
    ours, theirs, failures = mean.get_lines()
    assert (ours.get_label(), theirs.get_label()) == ("vaecore", "adv_lib, DDN")
    assert [*ours.get_xydata()[0]] == [8.0, 1.75]
    assert [*failures.get_xydata()[0]] == pytest.approx([9.0, 2.5 / 3])
    assert failures.get_markerfacecolor() == "white"


def test_of_several_runs_the_medians_count_of_what_all_have():
    def run(*times):
        return [
            benchmark | {"extra_info": benchmark["extra_info"] | {"ms_per_image": time}}
            for benchmark, time in zip(RUN["benchmarks"], times, strict=False)
        ]

    shared = medians([run(8.0, 1.0, 900.0), run(16.0, 3.0, 700.0), run(10.0, 7.0)])
    assert [benchmark["extra_info"]["ms_per_image"] for benchmark in shared] == [10.0, 3.0]
    assert [benchmark["group"] for benchmark in shared] == [LBFGS, "PGD, cpu"]
    assert shared[0]["extra_info"]["way"] == "vaecore"


def test_runs_of_different_machines_have_no_medians(table, capsys):
    with pytest.raises(SystemExit):
        table(json.dumps(RUN), json.dumps(RUN | {"machine_info": MACHINE | {"torch": "2.11.0"}}))
    assert "must come from one machine and one torch; got: " in capsys.readouterr().err


def test_the_command_prints_the_tables_in_markdown(table, capsys):
    assert table(json.dumps(RUN)) == 0
    assert capsys.readouterr().out == MARKDOWN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "must be what --benchmark-json wrote; FileNotFoundError"),
        ("{", "must be what --benchmark-json wrote; JSONDecodeError"),
        ("[]", "must be what --benchmark-json wrote; TypeError"),
        ('{"benchmarks": []}', "must be what --benchmark-json wrote; KeyError: 'machine_info'"),
        (json.dumps({**RUN, "benchmarks": []}), "holds no timings"),
    ],
)
def test_the_command_says_what_is_wrong_with_its_file(table, capsys, text, message):
    with pytest.raises(SystemExit):
        table(text)
    assert message in capsys.readouterr().err


def test_digits():
    assert [digits(number, 3) for number in (1169.6, 8.04, 0.05123, 9.996)] == ["1,170", "8.04", "0.0512", "10.0"]
    assert [digits(number, 2) for number in (145.3, 0.0)] == ["145", "0.0"]


# The whole

MODELS = """
import torch
from torch import nn


def classifier(seed):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    model[1].weight.data = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed))
    return model


class VAE(nn.Module):
    def encode(self, images):
        return images.flatten(1), torch.zeros_like(images.flatten(1))

    def decode(self, latents):
        return latents.view(-1, 1, 8, 8).sigmoid()


def vae(seed):
    return VAE()
"""


@pytest.mark.slow
def test_the_attacks_are_measured_and_what_is_not_has_a_reason(pytester, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)  # a peer that is missing
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # where it is set, pytest-benchmark measures nothing
    pytester.makepyfile(models=MODELS)
    images = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    np.savez(pytester.path / "mine.npz", images=images, labels=np.arange(60) % 3)
    options = ["-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-pno:cacheprovider", "-pno:hypothesispytest"]
    options += ["--dataset=mine.npz", "--runs=1", "--cache-dir=cache", "--device=cpu", "--vae=models:vae"]
    options += ["--classifier=models:classifier", "--benchmark-only", "--long", "--benchmark-json=results.json"]
    result = pytester.runpytest_inprocess(ROOT / "bench" / "test_attacks.py", *options)
    assert result.ret == pytest.ExitCode.OK
    lines = ["task * way *", "L-BFGS, targeted, cpu * vaecore *%  *  1.0 * 100.0%"]
    result.stdout.fnmatch_lines([*lines, "not measured (*): torchattacks cannot be imported: *"])
    run = json.loads((pytester.path / "results.json").read_text())
    timed = {(entry["group"], entry["extra_info"]["way"]): entry for entry in run["benchmarks"]}
    ours = timed["PGD, 40 steps, Linf 0.1, cpu", "vaecore"]
    assert ours["extra_info"]["images"] == 12
    assert 40 < ours["extra_info"]["evaluations"] < 44
    assert ours["extra_info"]["ms_per_image"] == pytest.approx(1e3 * ours["stats"]["median"] / 12)
    scipy = timed["L-BFGS, targeted, cpu", "scipy, one by one"]["extra_info"]
    assert scipy["success"] == 1
    for median, high in scipy["l2_ratio"].values():
        assert 0.98 < median <= high < 1.1
    for aim, least in (("targeted", 60), ("untargeted", 30)):  # images that are misclassified already take one
        near = timed[f"smallest L2, {aim}, cpu", "vaecore, 80"]["extra_info"]
        assert len(near["l2"]) == 12
        assert None not in near["l2"]
        assert least < near["evaluations"] < 100


STOPPED = """
def test_one(benchmark):
    benchmark.pedantic(lambda: None, rounds=2)


def test_two(benchmark):
    def stop():
        raise KeyboardInterrupt
    benchmark.pedantic(stop, rounds=2)
"""


def test_what_was_measured_before_ctrl_c_is_saved(pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeconftest("from bench.conftest import pytest_sessionfinish")
    pytester.makepyfile(STOPPED)
    pytester.runpytest_inprocess("--benchmark-json=kept.json", "-pno:hypothesispytest", no_reraise_ctrlc=True)
    kept = json.loads((pytester.path / "kept.json").read_text())["benchmarks"]
    assert [entry["name"] for entry in kept] == ["test_one"]
