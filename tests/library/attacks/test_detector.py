"""The detector with a VAE in it, as an attacker's target: closed forms, finite differences, and what counts as won."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax

from vaecore import VAEDetector
from vaecore.attacks._attack import Victim, gradient_of
from vaecore.attacks._detector import joint_loss

SIDE, LATENT, CLASSES = 4, 3, 4
ROWS = torch.arange(5)


class SmallVAE:
    """Linear encoder, sigmoid of a linear decoder; in whatever precision its weights have."""

    def __init__(self, seed=0, dtype=torch.float64, spread=-2.0):
        generator = torch.Generator().manual_seed(seed)
        self.forth = torch.randn(SIDE * SIDE, LATENT, generator=generator).to(dtype)
        self.back = torch.randn(LATENT, SIDE * SIDE, generator=generator).to(dtype)
        self.spread = spread

    def encode(self, images):
        mean = (images.flatten(1) - 0.5) @ self.forth
        return mean, self.spread + 0.1 * mean

    def decode(self, latents):
        return (latents @ self.back).sigmoid().view(-1, 1, SIDE, SIDE)


def classifier(images):
    weight = torch.randn(SIDE * SIDE, CLASSES, generator=torch.Generator().manual_seed(9)).to(images.dtype)
    return (3 * (images.flatten(1) - 0.5) @ weight).tanh() * 4


@pytest.fixture
def points():
    return torch.rand(5, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)).double()


def objective(detector, *, aims=None, targeted=False, loss="cross-entropy", seed=0, indices=None):
    aims = torch.tensor([0, 1, 2, 3, 0]) if aims is None else aims
    indices = ROWS if indices is None else indices
    return detector.objective(aims, targeted=targeted, loss=loss, indices=indices, seed=seed)


@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_gradient_goes_end_to_end(points, loss, targeted):
    detector = VAEDetector(SmallVAE(), classifier, draws=4, error_weight=0.3)
    climb = objective(detector, loss=loss, targeted=targeted)
    leaf = points.clone().requires_grad_()
    # A tolerance that the kink of the maximum over classes and finite steps leave room for, and no missing path does.
    assert torch.autograd.gradcheck(lambda x: climb(x, ROWS, 0)[1], leaf, eps=1e-6, atol=1e-5)


def test_bpda_takes_the_gradient_at_the_reconstruction_as_if_it_were_the_image(points):
    vae = SmallVAE()
    detector = VAEDetector(vae, classifier, draws=2, backward="identity")
    _, _, gradient = gradient_of(objective(detector, targeted=True), points, ROWS, 0)
    reconstructions = VAEDetector(vae, classifier, draws=2)._reconstruct(points, ROWS, _step_seed(0))

    def slope(images):
        leaf = images.clone().requires_grad_()
        score = log_softmax(classifier(leaf), dim=1).gather(1, torch.tensor([0, 1, 2, 3, 0])[:, None])
        return torch.autograd.grad(score.sum(), leaf)[0]

    expected = (slope(points) + (slope(reconstructions[:, 0]) + slope(reconstructions[:, 1])) / 2) / 2
    torch.testing.assert_close(gradient, expected)


def _step_seed(step):
    from vaecore._noise import seed_for  # noqa: PLC0415

    return seed_for(f"eot/{step}", 0)


def test_bpda_and_exact_gradients_differ(points):
    exact = VAEDetector(SmallVAE(), classifier, draws=2)
    slopes = [gradient_of(objective(one), points, ROWS, 0)[2] for one in (exact, replace(exact, backward="identity"))]
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3


def test_draws_are_new_each_step_and_the_same_for_an_image_wherever_it_stands(points):
    detector = VAEDetector(SmallVAE(), classifier, draws=3)
    climb = objective(detector)
    first, again, later = (climb(points, ROWS, step)[1] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert bool((first != later).all())
    some = torch.tensor([4, 1])
    torch.testing.assert_close(climb(points[some], some, 0)[1], first[some])
    moved = objective(detector, indices=ROWS + 7)(points, ROWS, 0)[1]
    assert bool((moved != first).all())
    assert bool((objective(detector, seed=1)(points, ROWS, 0)[1] != first).all())


def test_more_draws_approach_the_expectation(points):
    vae = SmallVAE(spread=0.0)
    many = objective(VAEDetector(vae, classifier, draws=20_000))(points, ROWS, 0)[1]
    few = torch.stack([objective(VAEDetector(vae, classifier, draws=1))(points, ROWS, t)[1] for t in range(50)])
    # The likeliest common class is chosen after averaging, so few draws are biased upwards, never down.
    assert bool((few.mean(dim=0) >= many - 0.15).all())
    medium = objective(VAEDetector(vae, classifier, draws=2_000))(points, ROWS, 1)[1]
    torch.testing.assert_close(medium, many, atol=0.1, rtol=0)


class Scripted:
    """Decodes every latent to a fixed image, and labels: own image by its first pixel, reconstructions in turn."""

    def __init__(self, own, drawn):
        self.labels = torch.tensor([[own, *drawn]])
        self.vae = self

    def encode(self, images):
        return torch.zeros(len(images), LATENT), torch.zeros(len(images), LATENT)

    def decode(self, latents):
        return torch.full((len(latents), 1, SIDE, SIDE), 0.5)

    def __call__(self, images):
        return 5 * torch.nn.functional.one_hot(self.labels.flatten(), CLASSES).float()


@pytest.mark.parametrize(
    ("own", "drawn", "aim", "targeted", "won"),
    [
        (2, (2, 2, 2), 0, False, True),
        (0, (0, 0, 0), 0, False, False),  # the right label
        (2, (2, 3, 2), 0, False, False),  # an alarm
        (2, (3, 3, 3), 0, False, False),  # the draws agree with each other and not with the image
        (2, (2, 2, 0), 0, False, False),
        (2, (2, 2, 2), 2, True, True),
        (3, (3, 3, 3), 2, True, False),  # another wrong label
        (2, (2, 2, 3), 2, True, False),
    ],
)
def test_what_counts_as_won(own, drawn, aim, targeted, won):
    script = Scripted(own, drawn)
    climb = objective(VAEDetector(script, script, draws=3), aims=torch.tensor([aim]), targeted=targeted)
    assert climb(torch.full((1, 1, SIDE, SIDE), 0.5), torch.tensor([0]), 0)[0].tolist() == [won]


def test_the_untargeted_loss_heads_for_the_best_class_in_common():
    """Class 1 is likelier for the image, class 2 for its draws; class 3 is second for both and wins on average."""
    own = torch.tensor([[0.1, 0.5, 0.01, 0.39]]).log()
    drawn = torch.tensor([[0.1, 0.01, 0.5, 0.39]]).log()
    aims = torch.tensor([0])
    joint = (own + drawn) / 2
    torch.testing.assert_close(
        joint_loss(joint, aims, targeted=False, loss="cross-entropy"), torch.tensor([0.39]).log()
    )
    lead = torch.tensor([0.39]).log() - torch.tensor([0.1]).log()
    torch.testing.assert_close(joint_loss(joint, aims, targeted=False, loss="margin"), lead)
    towards = joint_loss(joint, torch.tensor([2]), targeted=True, loss="cross-entropy")
    torch.testing.assert_close(towards, (torch.tensor([0.01]).log() + torch.tensor([0.5]).log()) / 2)


def test_the_label_itself_is_never_headed_for(points):
    sure = torch.tensor([[0.97, 0.01, 0.01, 0.01]]).log()
    assert joint_loss(sure, torch.tensor([0]), targeted=False, loss="cross-entropy").exp().item() < 0.02


def test_the_error_term_lowers_the_loss_by_its_weight_in_squared_error(points):
    plain = VAEDetector(SmallVAE(), classifier, draws=2)
    reconstructions = plain._reconstruct(points, ROWS, _step_seed(0))
    squares = (reconstructions - points[:, None]).square().sum(dim=(2, 3, 4)).mean(dim=1)
    with_term = objective(replace(plain, error_weight=0.25))(points, ROWS, 0)[1]
    torch.testing.assert_close(objective(plain)(points, ROWS, 0)[1] - with_term, 0.25 * squares)


def test_a_detector_is_a_victim_and_a_classifier_is_not():
    assert isinstance(VAEDetector(SmallVAE(), classifier), Victim)
    assert not isinstance(classifier, Victim)
    assert not isinstance(nn.Sequential(), Victim)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("draws", 0), ("error_weight", -0.1), ("error_weight", float("nan")), ("backward", "straight-through")],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(ValueError, match=rf"{setting} must be .*; got '?{value}"):
        VAEDetector(SmallVAE(), classifier, **{setting: value})


def test_bad_models_and_labels_are_named(points):
    def fails(detector, message, **settings):
        with pytest.raises(ValueError, match=message):
            objective(detector, **settings)(points, ROWS, 0)

    class Nan(SmallVAE):
        def encode(self, images):
            return tuple(part * torch.nan for part in super().encode(images))

    class Shape(SmallVAE):
        def decode(self, latents):
            return super().decode(latents)[:, :, :2]

    fails(VAEDetector(Nan(), classifier), "posterior must be finite")
    fails(VAEDetector(Shape(), classifier), "must decode to images shaped as its input")
    fails(VAEDetector(SmallVAE(), lambda images: images), "must map 55 images to logits")
    fails(VAEDetector(SmallVAE(), classifier), "labels must be 0 to 3; got", aims=torch.tensor([0, 1, 2, 3, 4]))
    fails(VAEDetector(SmallVAE(), classifier), "targets must be", aims=torch.tensor([0, 1, 2, 3, 4]), targeted=True)
