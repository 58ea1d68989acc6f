"""The roofline of the benchmark: operations as torch counts them, rates, limits, and the plot."""

import json
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from bench import __main__ as command
from bench import roofline
from bench.plot import throughput
from bench.roofline import Work, copy_rate, product_rate, reconstruction, work_of
from vaecore import VAE, VAEConfig

CONVOLUTIONS = nn.Sequential(
    nn.Conv2d(1, 8, 5, stride=2, padding=2),
    nn.ReLU(),
    nn.Conv2d(8, 6, 3),
    nn.ConvTranspose2d(6, 4, 4, stride=2),
    nn.Flatten(),
    nn.Linear(4 * 26 * 26, 3),
)


def forward_and_backward():
    vae, images = VAE(VAEConfig(), (28, 28)), torch.rand(7, 1, 28, 28)
    mean, _ = vae.encode(images)
    binary_cross_entropy(vae.decode(mean), images).backward()


@pytest.mark.parametrize(
    "call",
    [
        forward_and_backward,
        lambda: CONVOLUTIONS(torch.rand(3, 1, 28, 28)).sum().backward(),
        lambda: CONVOLUTIONS(torch.rand(3, 1, 28, 28, requires_grad=True)).sum().backward(),
        lambda: torch.rand(5, 2, 3) @ torch.rand(5, 3, 4),
        lambda: torch.baddbmm(torch.rand(5, 2, 4), torch.rand(5, 2, 3), torch.rand(5, 3, 4)),
    ],
    ids=["MLP", "convolutions", "convolutions to the images", "bmm", "baddbmm"],
)
def test_operations_are_those_that_torch_counts(call):
    with FlopCounterMode(display=False) as counter:
        call()
    assert work_of(call).operations == counter.get_total_flops() > 0


def test_shapes_are_those_of_the_products():
    assert work_of(lambda: torch.rand(5, 3) @ torch.rand(3, 4)).products == {(3, 4): 2 * 5 * 3 * 4}
    assert work_of(lambda: nn.Linear(3, 4)(torch.rand(5, 3))).products == {(3, 4): 2 * 5 * 3 * 4}
    assert work_of(lambda: CONVOLUTIONS[0](torch.rand(2, 1, 28, 28))).products == {(25, 8): 2 * 2 * 14 * 14 * 25 * 8}
    assert work_of(lambda: torch.rand(5, 3).exp()).products == {}


def test_reconstruction_encodes_once_and_decodes_each_draw():
    vae = VAE(VAEConfig(latent_size=20, hidden_size=400), (28, 28))
    work = reconstruction(vae, torch.rand(1, 1, 28, 28), 10, 1000, written=1)
    once, each = 784 * 400 + 400 * 40, 20 * 400 + 400 * 784
    assert work.operations == 2 * 1000 * (once + 10 * each)
    weights = once + each + 400 + 40 + 400 + 784
    assert work.moved == 4 * (1000 * (784 + 10) + weights)


def test_work_takes_its_products_one_after_the_other_or_its_bytes(monkeypatch):
    monkeypatch.setattr(roofline, "product_rate", lambda shape, *_: 100.0 * shape[0])
    monkeypatch.setattr(roofline, "copy_rate", lambda _: 10.0)
    work = Work({(1, 2): 300.0, (2, 2): 600.0}, 20.0)
    assert work.limit("cpu") == 3 + 3
    assert (work + Work({}, 100.0)).limit("cpu") == 12
    assert (work * 4).limit("cpu") == 24
    assert (work + work).products == {(1, 2): 600.0, (2, 2): 1200.0}


def test_a_rate_is_that_of_the_best_number_of_rows_and_of_a_copy(monkeypatch):
    def seconds(function, _):
        if isinstance(function, partial) and function.func is torch.mm:
            rows = len(function.args[0])
            return 1e-6 * rows if rows == 2_000 else 2e-6 * rows
        return 0.5

    monkeypatch.setattr(roofline, "_seconds", seconds)
    assert product_rate((40, 78), "cpu") == pytest.approx(2 * 40 * 78 / 1e-6)
    assert copy_rate("cpu") == 2 * (64 << 20) / 0.5


def test_a_call_takes_the_median_of_its_repeats(monkeypatch):
    called = 0

    def work():
        nonlocal called
        called += 1

    def clock():  # counts the calls: each takes 2 ms, and the second repeat takes a second more
        return 0.002 * called + (1.0 if called > 10 else 0.0)

    monkeypatch.setattr(roofline.time, "perf_counter", clock)
    assert roofline._seconds(work, "cpu") == pytest.approx(0.002)
    assert called == 2 + 3 * 5  # to warm up, to count how many take 10 ms, and three times that many


def test_the_machine_has_a_rate():
    assert 1e6 < product_rate((400, 784), "cpu") < 1e15
    assert 1e6 < copy_rate("cpu") < 1e15


SPEEDS = {
    "vaecore": {1000: 900.0, 10: 300.0, 100: 600.0},
    "vaecore, compiled": {100: 700.0, 1000: 1000.0},
    "forward passes": {10: 100.0, 100: 200.0, 1000: 400.0},
    "pythae": {1000: 400.0},
}
OTHER = {"group": "other", "fullname": "other", "extra_info": {"way": "vaecore", "ms_per_image": 1.0}}


def entry(way, images, speed):
    info = {"way": way, "draws": 10, "images": images, "model": "MLP VAE", "device": "cpu", "gflops": 1.0}
    info |= {"images_per_second": speed, "limit_images_per_second": 2 * speed, "ms_per_image": 1e3 / speed}
    return {"group": "reconstruction", "fullname": f"{way}, {images}", "extra_info": info}


BENCHMARKS = [entry(way, images, speed) for way, speeds in SPEEDS.items() for images, speed in speeds.items()]
BENCHMARKS.append(OTHER)


def test_curves_are_in_order_of_the_batch():
    curves = throughput(BENCHMARKS)
    assert list(curves) == ["MLP VAE, cpu"]
    lines = {key: [info["images_per_second"] for info in infos] for key, infos in curves["MLP VAE, cpu"].items()}
    assert lines == {
        ("vaecore", 10): [300, 600, 900],
        ("vaecore, compiled", 10): [700, 1000],
        ("forward passes", 10): [100, 200, 400],
        ("pythae", 10): [400],
    }


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Give a function that runs `python -m bench plot` on benchmarks; gives its exit status and the figure's path."""
    machine = {"machine": "x86_64", "cpu": {"brand_raw": "CPU"}, "torch": "2", "torch_threads": 2, "gpu": None}

    def run(benchmarks):
        results, figure = tmp_path / "results.json", tmp_path / "figure.svg"
        results.write_text(json.dumps({"machine_info": machine, "benchmarks": benchmarks}))
        monkeypatch.setattr(sys, "argv", ["bench", "plot", str(results), "--figure", str(figure)])
        return command.main(), figure

    return run


def test_the_command_draws_ways_and_limits(draw):
    status, figure = draw(BENCHMARKS)
    assert status == 0
    words = figure.read_text()  # letters are drawn as paths, with the words in comments
    for label in ("K = 10, vaecore", "K = 10, forward passes", "K = 10, limit", "images in a batch"):
        assert f"<!-- {label} -->" in words
    assert "pythae" not in words  # one point is no line,
    assert "compiled" not in words  # and two are none that shows a course


def test_the_command_says_what_it_misses(draw, capsys):
    with pytest.raises(SystemExit):
        draw([OTHER])
    assert "holds no timings of test_errors or test_nearest" in capsys.readouterr().err
