"""A study of two tiny runs, a user's project and results, which the tests of the suite share."""

import inspect
import os
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from vaecore import ClassifierConfig, LatentSearch, Store, VAEConfig, fit_scores, reference_configs
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.judging.verdict import judge
from vaecore.suite.plugin import reporting
from vaecore.suite.statistics.columns import Column, Origin
from vaecore.suite.statistics.estimates import mean
from vaecore.suite.study import cleaning, outside, preconditions
from vaecore.suite.study import setup as study_setup
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.study import Study


class TinyVAE(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)))

    def encode(self, images):
        return images.flatten(1) @ self.weight / 8, images.new_zeros(len(images), 4)

    def decode(self, latents):
        return (latents @ self.weight.T).sigmoid().view(-1, 1, 8, 8)


class TinyClassifier(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 3, generator=torch.Generator().manual_seed(100 + seed)))

    def forward(self, images):
        return images.flatten(1) @ self.weight


def configs_of(train):
    """Settings of reference models, which are next to nothing where there are few grey images."""
    few = len(train) < 200 and train.shape[0] == 1
    return (
        (VAEConfig(latent_size=2, hidden_size=4, epochs=1), ClassifierConfig((2, 2), 4, epochs=1))
        if few
        else reference_configs(train)
    )


@pytest.fixture(scope="session", autouse=True)
def _little_effort():
    """Beside tiny models, training takes no time, and neither do scores and a purifier that search."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (study_setup, outside):
            patch.setattr(module, "reference_configs", configs_of)
        patch.setattr(outside, "fit_scores", partial(fit_scores, regret_steps=5, posterior_steps=5))
        row = cleaning.PURIFIERS[cleaning.SEARCH]
        short = replace(row, make=lambda parts: LatentSearch(parts.vae, steps=5, starts=2))
        patch.setitem(cleaning.PURIFIERS, cleaning.SEARCH, short)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Give a study of two tiny runs on 12 images; the processes of xdist share what they compute."""
    folder = tmp_path_factory.mktemp("study")
    shared = tmp_path_factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    images = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    np.savez(folder / "mine.npz", images=images, labels=np.arange(60) % 3)
    sys.modules[f"{__name__}.models"] = module = type(sys)("models")
    module.vae, module.classifier = TinyVAE, TinyClassifier
    setup = Setup(
        Dataset(str(folder / "mine.npz"), "as asked"),
        Protocol(Profile("standard", 2, 12, 12, 8, 10)),
        device=torch.device("cpu"),
        vae=f"{__name__}.models:vae",
        classifier=f"{__name__}.models:classifier",
    )
    yield Study.of(setup, Store(shared / "cache"))
    del sys.modules[f"{__name__}.models"]


MODELS = f"""
import torch
from torch import nn
{inspect.getsource(TinyVAE)}
{inspect.getsource(TinyClassifier)}
finished_vae, finished_classifier, number = TinyVAE(0), TinyClassifier(0), 3
"""


# Tiny models know no label, and an attack on them may do nothing; `study/test_preconditions.py` has models of its own.
MET = {"ABOVE_CHANCE": -1.0, "KEPT": 0.0, "MOVED": 0.0, "MISTAKES": 0, "OTHERS": 0.0}


@pytest.fixture
def met(monkeypatch):
    """Preconditions are met by any models."""
    for name, least in MET.items():
        monkeypatch.setattr(preconditions, name, least)


@pytest.fixture
def project(pytester, monkeypatch, met):
    """Give a function that runs pytest in a user's project of its own, with tiny models and 60 images in `mine.npz`."""
    for variable in ("VAECORE_DATA", "VAECORE_CACHE", "XDG_CACHE_HOME", "PYTEST_ADDOPTS", "COLUMNS", "PY_COLORS"):
        monkeypatch.delenv(variable, raising=False)
    pytester.makepyfile(
        models=MODELS, met=f"from vaecore.suite.study import preconditions\nvars(preconditions).update({MET})"
    )
    images = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    np.savez(pytester.path / "mine.npz", images=images, labels=np.arange(60) % 3)
    given = ["--dataset=mine.npz", "--runs=2", "--cache-dir=cache", "--device=cpu", "--workers=1"]
    given += ["-pno:cacheprovider", "-pno:hypothesispytest"]
    tiny_models = ["--vae=models:TinyVAE", "--classifier=models:TinyClassifier"]

    def start(*options, inprocess=True, models=True):
        make = pytester.runpytest_inprocess if inprocess else pytester.runpytest_subprocess
        return make(*given, *(tiny_models if models else []), *([] if inprocess else ["-pmet"]), *options)

    start.path = pytester.path
    return start


@pytest.fixture(scope="session")
def registry():
    return load_registry("mine.npz")


@pytest.fixture(scope="session")
def verdicts(tiny, registry):
    """Give a supported, a refuted, an inconclusive and an undefined verdict."""
    values = {
        "A1": np.ones((2, 600)),
        "A2": np.zeros((2, 60)) - 1,
        "A5": np.tile([-1.0, 1.0], (2, 30)),
        "B1": [[np.nan]],
    }
    origin = Origin(frozenset({"clean", "lbfgs"}))
    estimates = {name: mean(Column(table, origin), limits=(-1, 1)) for name, table in values.items()}
    return [judge(registry.claims[name], [estimate], tiny.facts) for name, estimate in estimates.items()]


@pytest.fixture(scope="session")
def results(tiny, registry, verdicts):
    """Give the results of the tiny study, with these verdicts."""
    return reporting.whole(tiny, reporting.head(tiny, registry, verdicts))
