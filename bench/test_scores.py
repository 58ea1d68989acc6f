"""Anomaly scores: each alone, and most of them in one call, which shares what they have in common."""

import copy

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.measure import DEVICES, measure
from bench.table import OURS
from vaecore import fit_scores, scores
from vaecore.suite import Study

IMAGES, LEARNT = 500, 5_000
ALL = "all but expensive ones together"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*scores, ALL])
def test_score(benchmark: BenchmarkFixture, study: Study, device: str, name: str) -> None:
    """Test images; what is learnt from training images is learnt before."""
    run = study.run(0)
    assert isinstance(run.vae, nn.Module)
    assert isinstance(run.classifier, nn.Module)
    vae, classifier = (copy.deepcopy(model).to(device) for model in (run.vae, run.classifier))
    train, images = (
        study.setup.train.pixels[:LEARNT].to(device),
        study.setup.test.pixels[study.setup.indices[:IMAGES]].to(device),
    )
    judge = fit_scores(vae, classifier, train, seed=0, names=None if name == ALL else [name])  # type: ignore[arg-type]

    rounds = 1 if name in scores and scores[name].expensive else 5

    def run_all() -> Tensor:
        return torch.stack(list(judge(images).values()), dim=1)

    found = measure(
        benchmark,
        run_all,
        task=f"score {name}",
        way=OURS,
        images=len(images),
        device=device,
        rounds=rounds,
        warmup_rounds=1,
    )
    assert found.shape == (len(images), len(judge.names))
