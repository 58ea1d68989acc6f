"""What each kind of condition does to images: attacks, noise and transforms. Tasks, one for a shard of images."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vaecore import Attack, Autoencoder, VAEDetector, fgsm, lbfgs, outside, pgd, worst_case
from vaecore import Images as ImageSet
from vaecore.suite.study.kinds import ALARMS, MAGNET
from vaecore.toolkit import Classify, Tensors, answers, normal, outcome, seed_for, signs, uniform, words

_LEAST = 1e-12  # of a threshold, as a score may be 0 on nearly all images


_PERTURB: dict[str, Callable[..., Attack]] = {}  # what each kind does to rows of images, given `perturb`'s settings


def _kind(*names: str) -> Callable[[Callable[..., Attack]], Callable[..., Attack]]:
    """Register a function as what kinds of conditions do."""

    def register(function: Callable[..., Attack]) -> Callable[..., Attack]:
        _PERTURB.update(dict.fromkeys(names, function))
        return function

    return register


def perturb(
    kind: str,
    epsilon: float,
    settings: Mapping[str, float],
    seed: int,
    eot_draws: int,
    device: str,
    shard: Tensors,
    draws: int | None = None,
    vae: Autoencoder | None = None,
    classifier: Classify | None = None,
    thresholds: Tensors | None = None,
    twin: Tensors | None = None,
) -> Tensors:
    """A shard's images under a condition: those of an attack (`vaecore.Attack`), on the CPU.

    kind, settings: of the condition. epsilon: its size. seed: of the run. shard: pixels (n, c, h, w), labels, indices.
    draws, thresholds: of the detector whose alarms an attacker avoids. twin: the attack whose L2 sizes noise imitates.
    Noise and transforms always succeed, and ask for no gradient.
    """
    rows = {name: value.to(device) for name, value in shard.items()}
    attack = _PERTURB[kind](
        rows,
        kind=kind,
        epsilon=epsilon,
        settings=settings,
        seed=seed,
        eot_draws=eot_draws,
        draws=draws,
        vae=vae,
        classifier=classifier,
        thresholds=thresholds,
        l2=None if twin is None else twin["l2"].to(device),
    )
    columns = ("images", "success", "l2", "linf", "evaluations", "flags")
    return {name: getattr(attack, name).cpu() for name in columns}


def reconstructions_seed(seed: int) -> int:
    """Seed of the draws that the evidence of a run looks at, from the run's seed."""
    return seed_for("reconstructions", seed)


def joint_pgd(detector: VAEDetector, shard: Tensors, *, epsilon: float, steps: int, seed: int) -> Attack:
    """The adaptive attacker: PGD on a detector, with failures kept, since the detector must tell these as well.

    Steps are planned, with momentum: adapted ones would take the luck of a step's draws for progress, and where they
    do not shrink, a loss that is satisfied at one point and not beside it is left again.
    """
    return pgd(
        detector,
        shard["pixels"],
        shard["labels"],
        epsilon=epsilon,
        step_size=8 * epsilon / steps,
        shrinking=True,
        momentum=0.75,
        steps=steps,
        seed=seed,
        indices=shard["indices"],
        keep_failed=True,
    )


def random_targets(
    labels: Tensor, indices: Tensor, *, classes: int, seed: int, predicted: Tensor | None = None
) -> Tensor:
    """A class for each image that it neither has nor is given, all such equally likely, by (seed, index); (n,) int64.

    predicted: (n,) the class that each image is given, by default its label. With two classes, an image that is
    misclassified already gets the class it is given.
    """
    predicted = labels if predicted is None else predicted
    word = words(seed_for("targets", seed), indices, draws=1, size=1, device=labels.device)[:, 0, 0]
    low, high = torch.minimum(labels, predicted), torch.maximum(labels, predicted)
    taken = torch.where(low == high, 1, 2)
    target = word * (classes - taken).clamp(min=1) >> 32
    target += (target >= low).long()  # step over the lower of the two, then over the higher
    target += ((target >= high) & (taken == 2)).long()
    return torch.where(taken < classes, target, predicted)


def at_distance(images: Tensor, direction: Tensor, l2: Tensor) -> Tensor:
    """Move each image along its direction until, clipped to [0, 1], it lies at distance l2 (n,); NaN moves nothing.

    Clipping takes most of a perturbation of MNIST's black pixels away, so a plain rescaling would fall short.
    """
    wanted = l2.nan_to_num(0.0)
    low, high = torch.zeros_like(wanted), torch.full_like(wanted, 1e3)
    for _ in range(50):
        scale = (low + high) / 2
        moved = (images + scale.view(-1, 1, 1, 1) * direction).clamp(0, 1)
        short = (moved - images).flatten(1).norm(dim=1) < wanted
        low, high = torch.where(short, scale, low), torch.where(short, high, scale)
    return (images + low.view(-1, 1, 1, 1) * direction).clamp(0, 1)


@_kind("clean")
def _clean(rows: Tensors, **_: Any) -> Attack:
    return _harmless(rows["pixels"], rows["pixels"])


@_kind("fgsm")
def _fgsm(rows: Tensors, *, classifier: Classify, epsilon: float, **_: Any) -> Attack:
    return fgsm(classifier, rows["pixels"], rows["labels"], epsilon=epsilon, keep_failed=True)


@_kind("uniform")
def _uniform(rows: Tensors, *, epsilon: float, seed: int, **_: Any) -> Attack:
    noise = 2 * _noise(uniform, "uniform", seed, rows) - 1
    return _harmless(rows["pixels"], (rows["pixels"] + epsilon * noise).clamp(0, 1))


@_kind("sign")
def _sign(rows: Tensors, *, epsilon: float, seed: int, **_: Any) -> Attack:
    return _harmless(rows["pixels"], (rows["pixels"] + epsilon * _noise(signs, "sign", seed, rows)).clamp(0, 1))


@_kind("lbfgs", "lbfgs-0.98")
def _lbfgs(rows: Tensors, *, classifier: Classify, settings: Mapping[str, float], seed: int, **_: Any) -> Attack:
    with torch.no_grad():
        logits = answers(classifier, rows["pixels"])
    classes, taken = logits.shape[1], logits.argmax(dim=1)
    targets = random_targets(rows["labels"], rows["indices"], classes=classes, seed=seed, predicted=taken)
    return lbfgs(classifier, rows["pixels"], targets, confidence=settings.get("confidence"))


@_kind("gaussian-lbfgs", "gaussian-lbfgs-0.98")
def _twin(rows: Tensors, *, kind: str, seed: int, l2: Tensor, **_: Any) -> Attack:
    images = rows["pixels"]
    return _harmless(images, at_distance(images, _noise(normal, kind.rpartition("-")[0], seed, rows), l2))


@_kind("joint")
def _joint(
    rows: Tensors,
    *,
    kind: str,
    vae: Autoencoder,
    classifier: Classify,
    epsilon: float,
    settings: Mapping[str, float],
    seed: int,
    eot_draws: int,
    **_: Any,
) -> Attack:
    detector = VAEDetector(vae, classifier, draws=eot_draws)
    # The attacker's draws are not the detector's: another purpose, another seed.
    own_seed = seed_for(f"attack/{kind}-{epsilon:g}", seed)
    return joint_pgd(detector, rows, epsilon=epsilon, steps=int(settings["steps"]), seed=own_seed)


@_kind("evade", "evade-known", "evade-magnet")
def _evade(
    rows: Tensors,
    *,
    kind: str,
    vae: Autoencoder,
    classifier: Classify,
    thresholds: Tensors,
    draws: int,
    epsilon: float,
    settings: Mapping[str, float],
    seed: int,
    eot_draws: int,
    **_: Any,
) -> Attack:
    known = bool(settings["known_draws"])
    detector = VAEDetector(
        vae,
        classifier,
        draws=draws if known else eot_draws,
        thresholds={
            name: float(thresholds[name][-1].clamp(min=_LEAST)) for name in (MAGNET if settings["magnet"] else ALARMS)
        },
        known_seed=reconstructions_seed(seed) if known else None,
    )
    own_seed = seed_for(f"attack/{kind}-{epsilon:g}", seed)
    return joint_pgd(detector, rows, epsilon=epsilon, steps=int(settings["steps"]), seed=own_seed)


@_kind("pgd")
def _pgd(
    rows: Tensors, *, classifier: Classify, epsilon: float, settings: Mapping[str, float], seed: int, **_: Any
) -> Attack:
    return pgd(
        classifier,
        rows["pixels"],
        rows["labels"],
        epsilon=epsilon,
        steps=int(settings["steps"]),
        seed=seed_for("attack/pgd", seed),
        indices=rows["indices"],
        keep_failed=True,
    )


@_kind("worst-case")
def _worst_case(
    rows: Tensors, *, classifier: Classify, epsilon: float, settings: Mapping[str, float], seed: int, **_: Any
) -> Attack:
    effort: Any = {name: int(value) for name, value in settings.items()}
    own_seed = seed_for("attack/worst-case", seed)
    common: Any = {"epsilon": epsilon, "seed": own_seed, "indices": rows["indices"], "keep_failed": True}
    return worst_case(classifier, rows["pixels"], rows["labels"], **effort, **common)


@_kind("rotated")
def _rotated(rows: Tensors, *, epsilon: float, **_: Any) -> Attack:
    clean = ImageSet(rows["pixels"], rows["labels"], "test images", "test")
    return _harmless(clean.pixels, outside(f"rotated-{epsilon:g}", clean, seed=0, indices=rows["indices"]).pixels)


@_kind("gaussian")
def _gaussian(rows: Tensors, *, epsilon: float, **_: Any) -> Attack:
    images = rows["pixels"]
    noise = normal(seed_for(f"gaussian-{epsilon:g}", 0), rows["indices"], draws=1, size=images[0].numel())
    return _harmless(images, (images + epsilon * noise.view_as(images)).clamp(0, 1))


def _noise(generate: Callable[..., Tensor], name: str, seed: int, rows: Tensors) -> Tensor:
    images = rows["pixels"]
    noise = generate(seed_for(name, seed), rows["indices"], draws=1, size=images[0].numel(), device=images.device)
    return noise.view_as(images)


def _harmless(clean: Tensor, images: Tensor) -> Attack:
    """Noise or a transform as the result of an attack that always reaches its aim and asks for no gradient."""
    every = torch.ones(len(images), dtype=torch.bool, device=images.device)
    none = torch.zeros(2, len(images), dtype=torch.int64, device=images.device)
    return outcome(clean, images, every, evaluations=none[0], flags=none[1].clone())
