"""A small VAE, a small classifier, images for both, and what users' models do, shared by the tests of the library."""

import pytest
import torch
from torch import nn

from vaecore import VAE, ConvVAE, ConvVAEConfig, HierarchicalVAE, HierarchicalVAEConfig, VAEConfig

SIDES = (5, 4)


def randomised(model, scale, seed):
    """The model in evaluation mode, with normal weights of this standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return model.eval()


@pytest.fixture(scope="session")
def tiny_vae():
    """Give a function that makes a VAE of 5x4 images with 3 latents, whose weights let draws differ visibly."""
    return lambda seed=0, *, hidden=8, kind=VAE: randomised(kind(VAEConfig(3, hidden), SIDES), 0.6, seed)


@pytest.fixture(scope="session")
def tiny_hierarchical_vae():
    """Give a function that makes a hierarchical VAE of 5x4 images with three levels, in the manner of `tiny_vae`."""
    config = HierarchicalVAEConfig((1, 3, 2), (4, 6, 5), patch=2)
    return lambda seed=0: randomised(HierarchicalVAE(config, SIDES), 0.4, seed)


COLOURS = (3, 8, 16)


@pytest.fixture(scope="session")
def tiny_colour_vae():
    """Give a function that makes a convolutional VAE of colour images, 8x16, in the manner of `tiny_vae`."""

    def make(seed=0):
        vae = randomised(ConvVAE(ConvVAEConfig(2, (4, 4, 6)), COLOURS), 0.3, seed)
        vae.log_scale.data = torch.tensor([-3.0, -2.5, -2.0]).view(3, 1, 1)
        return vae

    return make


@pytest.fixture(scope="session")
def tiny_classifier():
    """Give a function that makes a linear classifier of 5x4 images, which gives all its 4 labels."""

    def make():
        model = randomised(nn.Sequential(nn.Flatten(), nn.Linear(20, 4)), 2, seed=1)
        model[1].bias.data = -0.5 * model[1].weight.data.sum(dim=1)
        return model

    return make


@pytest.fixture(scope="session")
def some_images():
    """Give a function that makes random grey images, 5x4."""
    return lambda count, seed=0: torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="session")
def some_colours():
    """Give a function that makes random colour images of 8-bit levels, 8x16, both ends among them."""

    def make(count, seed=0):
        levels = torch.randint(-20, 276, (count, *COLOURS), generator=torch.Generator().manual_seed(seed))
        return levels.clamp(0, 255) / 255

    return make


def spoiling(function):
    """The function, which also writes into what it is given."""

    def spoil(given):
        answer = function(given.clone())
        given.zero_()
        return answer

    return spoil


def converted(*dtypes):
    """Give a function that wraps a function: what it answers is converted to each dtype in turn."""

    def convert(answer):
        for dtype in dtypes:
            answer = tuple(map(convert, answer)) if isinstance(answer, tuple) else answer.to(dtype)
        return answer

    return lambda function: lambda given: convert(function(given))


@pytest.fixture(
    params=[
        (spoiling, lambda function: function),
        (converted(torch.float64), lambda function: function),
        (converted(torch.bfloat16), converted(torch.bfloat16, torch.float32)),
        (converted(torch.float16), converted(torch.float16, torch.float32)),
    ],
    ids=["writes into what it is given", "float64", "bfloat16", "float16"],
)
def habit(request):
    """Two wrappers of functions that should make no difference: one gives the function a user's habit."""
    return request.param


@pytest.fixture
def one_thread():
    """One thread, whose core's cache decides how much is computed at once."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
