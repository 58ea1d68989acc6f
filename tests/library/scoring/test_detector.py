"""A detector by a score, as an attacker's target: its gradient, its threshold, its draws."""

import pytest
import torch
from torch.testing import assert_close

from vaecore import ScoreDetector, fit_scores, pgd, scores
from vaecore.toolkit import seed_for

NAMES = ["mse", "kl", "latent-knn", "typicality", "max-softmax", "energy", "magnet-divergence"]


@pytest.fixture(scope="module")
def fitted(tiny_vae, tiny_classifier, some_images):
    few = {"draws": 3, "importance_draws": 4, "neighbours": 2}
    return fit_scores(tiny_vae(), tiny_classifier(), some_images(60, 9), seed=2, names=NAMES, **few)


def objective(detector, count):
    labels = torch.zeros(count, dtype=torch.int64)
    return detector.objective(labels, targeted=False, loss="margin", indices=torch.arange(count) + 7, seed=5)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_the_score(fitted, some_images, name):
    points, rows = some_images(4), torch.arange(4)
    ask = objective(ScoreDetector(fitted, name), 4)
    leaf = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ask(leaf, rows, 0)[1].sum(), leaf)
    direction, size = torch.randn(points.shape, generator=torch.Generator().manual_seed(0)), 1e-3
    with torch.no_grad():
        above, below = (ask(points + step * direction, rows, 0)[1] for step in (size, -size))
    slope = (gradient * direction).sum(dim=(1, 2, 3))
    assert_close((above - below) / (2 * size), slope, rtol=0.05, atol=0.02 * float(slope.abs().max()))
    assert slope.abs().min() > 0


@pytest.mark.parametrize("name", ["mse", "max-softmax"])
def test_it_is_won_at_the_threshold_and_draws_anew_in_each_step(fitted, some_images, name):
    points, rows = some_images(6), torch.tensor([3, 0, 5])
    at = {"seed": seed_for("eot/2", 5), "names": [name]}
    expected = fitted.look(points[rows], rows + 7, **at)[name].detach()
    ask = objective(ScoreDetector(fitted, name, threshold=float(expected[1])), 6)
    won, value = ask(points[rows], rows, 2)
    assert_close(value.detach(), -expected)
    assert won.tolist() == (expected <= expected[1]).tolist()
    assert not objective(ScoreDetector(fitted, name), 6)(points[rows], rows, 2)[0].any()
    assert torch.equal(ask(points[rows], rows, 3)[1].detach(), value.detach()) == ("vae" not in scores[name].needs)


def test_pgd_lowers_a_score_without_a_classifier(tiny_vae, some_images):
    fitted = fit_scores(tiny_vae(), None, None, seed=2, names="kl")
    images, labels = some_images(8), torch.zeros(8, dtype=torch.int64)
    limit = float(fitted(images)["kl"].min())
    attack = pgd(ScoreDetector(fitted, "kl", limit), images, labels, epsilon=0.3, seed=0, keep_failed=True)
    after = fitted(attack.images)["kl"]
    assert attack.success.tolist() == (after <= limit).tolist()
    assert attack.success.float().mean() > 0.5
    failed = int((~attack.success).sum())
    assert attack.warnings() == [f"{failed} of 8 images: the attack did not reach its aim"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "elbo"}, "name must be 'mse', 'kl', .*; got 'elbo'"),
        ({"threshold": float("nan")}, "threshold must be a number below infinity; got nan"),
    ],
)
def test_unfit_detectors(fitted, change, message):
    with pytest.raises(ValueError, match=message):
        ScoreDetector(**{"fitted": fitted, "name": "mse"} | change)
