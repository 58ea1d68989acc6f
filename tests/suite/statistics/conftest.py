"""Random numbers, and scores of runs and images with crossed effects."""

import numpy as np
import pytest

RUNS, IMAGES = 4, 300


@pytest.fixture
def generator():
    return np.random.default_rng(7)


@pytest.fixture
def crossed(generator):
    """Give a function that draws scores with run, image and residual effects of comparable weight in the mean."""

    def draw(runs=RUNS, images=IMAGES, run_effect=0.1):
        return (
            run_effect * generator.standard_normal((runs, 1))
            + generator.standard_normal(images)
            + generator.standard_normal((runs, images))
        )

    return draw
