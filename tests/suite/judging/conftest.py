"""A claim, facts of a study, and an estimate of a known mean."""

from dataclasses import replace

import numpy as np
import pytest

from vaecore.suite.judging.bound import Bound
from vaecore.suite.judging.registry import Claim
from vaecore.suite.statistics.estimates import mean


@pytest.fixture(scope="session")
def claim():
    """Give a function that makes a claim with this bound."""

    def make(bound, *, name="A1", no_effect=Bound(low=0.0), level=0.95, **settings):  # noqa: B008  # frozen
        return Claim(name, "finding", "So it is.", "share", "a study", no_effect, bound, level, **settings)

    return make


@pytest.fixture(scope="session")
def facts(tiny):
    """Facts of a study of two runs, on more test images than any verdict asks for."""
    return replace(tiny.facts, test_images=10**6)


@pytest.fixture(scope="session")
def values():
    """Give a function that makes an estimate whose images vary about a centre, the mean of each run."""

    def make(centre, *, runs=5, images=400, seed=0):
        noise = 0.1 * np.random.default_rng(seed).normal(size=(runs, images))
        return mean(noise - noise.mean(axis=1, keepdims=True) + centre)

    return make
