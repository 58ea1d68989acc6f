"""The detector with a VAE in it, as an attacker's target: closed forms, finite differences, and what counts as won."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.functional import log_softmax

from vaecore import VAEDetector, VAEPurifier, fgsm, pgd, square
from vaecore.toolkit import seed_for

SIDE, LATENT, CLASSES = 4, 3, 4
ROWS, LABELS = torch.arange(5), torch.tensor([0, 1, 2, 3, 0])


class SmallVAE:
    """Linear encoder, sigmoid of a linear decoder, in float64."""

    def __init__(self, spread=-2.0):
        generator = torch.Generator().manual_seed(0)
        self.forth = torch.randn(SIDE * SIDE, LATENT, generator=generator).double()
        self.back = torch.randn(LATENT, SIDE * SIDE, generator=generator).double()
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


def objective(detector, *, aims=LABELS, targeted=False, loss="cross-entropy", seed=0, indices=ROWS):
    return detector.objective(aims, targeted=targeted, loss=loss, indices=indices, seed=seed)


def gradient(function, points):
    leaf = points.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def reconstructions_of(points, draws):
    """Those of the detector's first step."""
    return VAEPurifier(SmallVAE(), draws=draws).views(points, ROWS, seed_for("eot/0", 0))


ALARMS = {"mse": 0.01, "disagreement": 0.05, "max-softmax": 0.01, "magnet-error": 0.01, "magnet-divergence": 1e-4}


@pytest.mark.parametrize("thresholds", [{}, ALARMS], ids=["count", "scores"])
@pytest.mark.parametrize("loss", ["cross-entropy", "margin"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_gradient_goes_end_to_end(points, loss, targeted, thresholds):
    detector = VAEDetector(SmallVAE(), classifier, draws=4, thresholds=thresholds)
    climb = objective(detector, loss=loss, targeted=targeted)
    leaf = points.clone().requires_grad_()
    # A tolerance that the kink of the maximum over classes and finite steps leave room for, and no missing path does.
    assert torch.autograd.gradcheck(lambda x: climb(x, ROWS, 0)[1], leaf, eps=1e-6, atol=1e-5)


def test_bpda_takes_the_gradient_at_the_reconstruction_as_if_it_were_the_image(points):
    bpda = VAEDetector(SmallVAE(), classifier, draws=2, backward="identity")
    slopes = [
        gradient(lambda x, way=way: objective(way, targeted=True)(x, ROWS, 0)[1], points)
        for way in (bpda, replace(bpda, backward="exact"))
    ]
    draws = reconstructions_of(points, 2)

    def slope(images):
        return gradient(lambda x: log_softmax(classifier(x), dim=1).gather(1, LABELS[:, None]), images)

    expected = (slope(points) + (slope(draws[:, 0]) + slope(draws[:, 1])) / 2) / 2
    torch.testing.assert_close(slopes[0], expected)
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3


def test_draws_are_new_each_step_and_the_same_for_an_image_wherever_it_stands(points):
    detector = VAEDetector(SmallVAE(), classifier, draws=3)
    climb = objective(detector)
    first, again, later = (climb(points, ROWS, step)[1] for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert bool((first != later).all())
    some = torch.tensor([4, 1])
    torch.testing.assert_close(climb(points[some], some, 0)[1], first[some])
    for other in ({"indices": ROWS + 7}, {"seed": 1}):
        assert bool((objective(detector, **other)(points, ROWS, 0)[1] != first).all())


def test_more_draws_approach_the_expectation(points):
    def loss(draws, step=0):
        return objective(VAEDetector(SmallVAE(spread=0.0), classifier, draws=draws))(points, ROWS, step)[1]

    many = loss(20_000)
    few = torch.stack([loss(1, step) for step in range(50)])
    # The likeliest common class is chosen after averaging, so few draws are biased upwards, never down.
    assert bool((few.mean(dim=0) >= many - 0.15).all())
    torch.testing.assert_close(loss(2_000, 1), many, atol=0.1, rtol=0)


class Scripted:
    """Decodes every latent to a grey image, and classifies an image and its draws by a script, (1 + draws, classes)."""

    def __init__(self, logits):
        self.logits = logits

    def encode(self, images):
        return torch.zeros(len(images), LATENT), torch.zeros(len(images), LATENT)

    def decode(self, latents):
        return torch.full((len(latents), 1, SIDE, SIDE), 0.5)

    def answer(self, aim, **setting):
        """Whether the attack has won, and its loss."""
        detector = VAEDetector(self, lambda _: self.logits, draws=len(self.logits) - 1)
        climb = objective(detector, aims=torch.tensor([aim]), indices=torch.tensor([0]), **setting)
        won, loss = climb(torch.full((1, 1, SIDE, SIDE), 0.5), torch.tensor([0]), 0)
        return bool(won), float(loss)


@pytest.mark.parametrize(
    ("labels", "aim", "targeted", "won"),
    [
        ((2, 2, 2, 2), 0, False, True),
        ((0, 0, 0, 0), 0, False, False),  # the right label
        ((2, 2, 3, 2), 0, False, False),  # an alarm
        ((2, 3, 3, 3), 0, False, False),  # the draws agree with each other and not with the image
        ((2, 2, 2, 0), 0, False, False),
        ((2, 2, 2, 2), 2, True, True),
        ((3, 3, 3, 3), 2, True, False),  # another wrong label
        ((2, 2, 2, 3), 2, True, False),
    ],
)
def test_what_counts_as_won(labels, aim, targeted, won):
    logits = 5 * torch.nn.functional.one_hot(torch.tensor(labels), CLASSES).float()
    assert Scripted(logits).answer(aim, targeted=targeted)[0] == won


def test_the_untargeted_loss_heads_for_the_best_class_in_common():
    """Class 1 is likelier for the image, class 2 for its draw; class 3 is second for both and wins on average."""
    own, drawn = torch.tensor([0.1, 0.5, 0.01, 0.39]).log(), torch.tensor([0.1, 0.01, 0.5, 0.39]).log()
    script = Scripted(torch.stack([own, drawn]))
    for aim, setting, expected in (
        (0, {}, own[3]),
        (0, {"loss": "margin"}, own[3] - own[0]),
        (2, {"targeted": True}, (own[2] + drawn[2]) / 2),
    ):
        assert script.answer(aim, **setting)[1] == pytest.approx(float(expected))
    sure = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
    assert Scripted(sure.expand(2, 4)).answer(0)[1] == pytest.approx(float(sure[1]))  # never for the label itself


def test_once_the_label_is_wrong_the_loss_is_what_the_alarms_still_see(points):
    draws, aims = 3, classifier(points).argmax(dim=1)
    aims[0] = (aims[0] + 1) % CLASSES  # image 0 is fooled already, the others are not
    detector = VAEDetector(SmallVAE(), classifier, draws=draws, thresholds=ALARMS)
    won, loss = objective(detector, aims=aims)(points, ROWS, 0)
    plain = objective(replace(detector, thresholds={}), aims=aims)(points, ROWS, 0)[1]
    torch.testing.assert_close(loss[1:], plain[1:])

    image, views = points[:1], reconstructions_of(points, draws)[0]
    label, logits = classifier(image).argmax(), classifier(views)
    seen = {
        "mse": (views - image).square().mean(),
        "disagreement": 1 - logits.softmax(dim=1)[:, label].mean(),
        "max-softmax": 1 - classifier(image).softmax(dim=1).max(),
    }
    decoded = SmallVAE().decode(SmallVAE().encode(image)[0])
    one, other = ((classifier(each) / 10).softmax(dim=1) for each in (image, decoded))
    middle = (one + other) / 2
    seen["magnet-error"] = (decoded - image).abs().mean()
    seen["magnet-divergence"] = ((one * (one / middle).log()).sum() + (other * (other / middle).log()).sum()) / 2
    excess = sum(max(0.0, float((seen[name] / limit).log())) for name, limit in ALARMS.items())
    lead = logits[:, label] - logits.masked_fill(torch.arange(CLASSES) == label, -torch.inf).amax(dim=1)
    expected = -excess - float((1 - lead).clamp(min=0).mean())
    assert float(loss[0]) == pytest.approx(expected)
    assert not won.any()


@pytest.mark.parametrize("alarm", [None, *ALARMS])
def test_a_score_above_its_threshold_is_an_alarm(points, alarm):
    """Draws of no variance agree, so that only the scores can raise one."""
    detector = VAEDetector(SmallVAE(spread=-80.0), classifier, draws=2, thresholds=dict.fromkeys(ALARMS, 1e3))
    agreeing = objective(replace(detector, thresholds={}))(points, ROWS, 0)[0]
    assert agreeing.any()
    if alarm is not None:
        detector = replace(detector, thresholds={**detector.thresholds, alarm: 1e-9})
    assert torch.equal(objective(detector)(points, ROWS, 0)[0], agreeing & (alarm is None))


def test_draws_that_are_known_are_those_of_the_detector(points):
    known = VAEDetector(SmallVAE(), classifier, draws=3, known_seed=11)
    drawn = known._reconstruct(points, ROWS, 11)
    torch.testing.assert_close(drawn, VAEPurifier(SmallVAE(), draws=3).views(points, ROWS, 11))
    answers = [objective(known, seed=seed)(points, ROWS, step)[1] for seed, step in ((0, 0), (0, 9), (5, 0))]
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], objective(replace(known, known_seed=12))(points, ROWS, 0)[1])


class Inner(SmallVAE):
    """Of float32 images; it computes and answers in float64."""

    def encode(self, images):
        return super().encode(images.double())

    def decode(self, latents):
        return super().decode(latents.double())


@pytest.mark.parametrize(
    ("attack", "last"),
    [
        (fgsm, 1),
        (partial(pgd, steps=5, step_size=0.1), 5),
        (partial(square, queries=20), None),  # each image ends at a query of its own
    ],
    ids=["fgsm", "pgd", "square"],
)
def test_an_attack_on_a_detector_wins_by_its_objective(points, attack, last):
    detector = VAEDetector(Inner(), classifier, draws=3)
    result = attack(detector, points.float(), LABELS, epsilon=0.4, seed=7, indices=ROWS + 3, keep_failed=True)
    assert result.success.any()
    assert result.flags.tolist() == [0] * 5
    if last is not None:
        won = objective(detector, indices=ROWS + 3, seed=7)(result.images, ROWS, last)[0]
        assert torch.equal(result.success, won)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("draws", 0),
        ("thresholds", {"mse": 0.0}),
        ("thresholds", {"mse": float("nan")}),
        ("thresholds", {"kl": 1.0}),
        ("backward", "straight-through"),
    ],
)
def test_bad_settings_are_named(setting, value):
    given = next(iter(value.items())) if isinstance(value, dict) else (value,)
    got = "|".join(map(repr, given))
    with pytest.raises(ValueError, match=rf"{setting.removesuffix('s')}.* must be .*; got ({got})"):
        VAEDetector(SmallVAE(), classifier, **{setting: value})


class NaNPosterior(SmallVAE):
    def encode(self, images):
        return tuple(part * torch.nan for part in super().encode(images))


class WrongShape(SmallVAE):
    def decode(self, latents):
        return super().decode(latents)[:, :, :2]


@pytest.mark.parametrize(
    ("vae", "classify", "setting", "message"),
    [
        (NaNPosterior(), classifier, {}, "posterior must be finite"),
        (WrongShape(), classifier, {}, "must decode to images shaped as its input"),
        (SmallVAE(), lambda images: images, {}, "must map 55 images to logits"),
        (SmallVAE(), classifier, {"aims": ROWS}, "labels must be 0 to 3; got"),
        (SmallVAE(), classifier, {"aims": ROWS, "targeted": True}, "targets must be"),
    ],
)
def test_bad_models_and_labels_are_named(points, vae, classify, setting, message):
    with pytest.raises(ValueError, match=message):
        objective(VAEDetector(vae, classify), **setting)(points, ROWS, 0)
