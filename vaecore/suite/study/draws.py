"""Evidence: what a VAE and a classifier make of each test image under a condition. One row an image, no statistics.

A row depends on its image, the models and the seed, never on its batch-mates: so tables computed in shards, on one
machine or several, join by concatenation.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaecore._batch_sizes import answers
from vaecore._noise import normal, seed_for, signs, uniform, words
from vaecore._precision import Precision
from vaecore._store import Tensors
from vaecore.attacks._attack import Attack, outcome
from vaecore.attacks._detector import VAEDetector
from vaecore.attacks._fgsm import fgsm
from vaecore.attacks._lbfgs import lbfgs
from vaecore.attacks._pgd import pgd
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._decode import kl_of_posterior, posterior, squared_error
from vaecore.reconstruction._reconstruct import distinct_labels, reconstruct

DRAWS = 10
MANY_DRAWS = 50
EPSILONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
CONFIDENCE = 0.98  # of the target, on L-BFGS images that do not sit on the decision boundary
CLEAN, LBFGS, CONFIDENT = "clean", "lbfgs", f"lbfgs-{CONFIDENCE:g}"
JOINT, JOINT_MSE = "joint-0.3", "joint-mse-0.3"
# Gaussian noise that is as large, image by image, as the perturbation of another condition.
TWINS = {f"gaussian-{attack}": attack for attack in (LBFGS, CONFIDENT)}
GAUSSIAN = f"gaussian-{LBFGS}"
CONDITIONS = (
    CLEAN,
    *(f"{kind}-{epsilon:g}" for kind in ("fgsm", "uniform", "sign") for epsilon in EPSILONS),
    LBFGS,
    CONFIDENT,
    *TWINS,
    JOINT,
    JOINT_MSE,
)
MINIMAL = {LBFGS: LBFGS, CONFIDENT: CONFIDENT, **TWINS}  # an attack may fail here; and where to see whether it did
ADAPTIVE = (JOINT, JOINT_MSE)
MANY = (CLEAN, "fgsm-0.2", LBFGS)  # conditions looked at with MANY_DRAWS
# Noise that no claim takes: it is only shown, on fewer images.
SHOWN = tuple(
    name
    for name in CONDITIONS
    if name.startswith(("uniform-", "sign-")) and name not in ("uniform-0.05", "uniform-0.2", "sign-0.1", "sign-0.2")
)

# The adaptive attacker's effort, settled on pilot seeds: more steps or draws than these gain nothing (see the figure
# of convergence in the report), and at this weight of the error the better of count and MSE detects least. Steps are of
# one size, 4 epsilon / steps: an adapted size takes the luck of a step's draws for progress.
EOT_DRAWS, STEPS = 5, {JOINT: 40, JOINT_MSE: 60}
CHUNK = 50  # images attacked at once through draws: what is made of them should stay in the cache
ERROR_WEIGHT = {JOINT: 0.0, JOINT_MSE: 0.01}


@dataclass(frozen=True)
class Shard:
    """Some test images of a run: pixels (n, c, h, w), labels (n,), indices in the data set (n,), the run's seed."""

    pixels: Tensor
    labels: Tensor
    indices: Tensor
    seed: int

    def to(self, device: torch.device) -> "Shard":
        """The same on a device."""
        return Shard(self.pixels.to(device), self.labels.to(device), self.indices.to(device), self.seed)

    @property
    def known(self) -> tuple[object, ...]:
        """What a digest of a result on it takes."""
        return self.seed, self.pixels, self.labels, self.indices


def collect(
    vae: Autoencoder,
    classifier: Classify,
    shard: Shard,
    condition: str,
    twin_l2: Tensor | None = None,
    precision: Precision = "float32",
    attack: Attack | None = None,
) -> Tensors:
    """Evidence on a shard under a condition; a dict of columns, each (n,) or (n, draws), on the CPU.

    index, label: of the image. success: the attack reached its aim (true for clean images and noise). l2: size of the
    change. evaluations, flags: as in `vaecore.Attack`. predicted: the classifier's label; confidence: its softmax,
    float64. ink: mean pixel. kl, elbo: nats. latent_shift: L2 distance of the posterior mean from that of
    the clean image.
    draw_label, draw_probability: label of each reconstruction and its softmax. draw_own_probability: softmax of a
    reconstruction at the label that the image itself was given. draw_mse: mean squared error over pixels. There are
    DRAWS draws, or MANY_DRAWS, of which the first are the same.
    twin_l2: (n,), the size of the perturbations that a condition in TWINS imitates. precision: of the reconstructions;
    attacks and the classifier keep to float32. attack: what `perturb` gives, where it is there already.
    """
    draws = drawn(condition)
    if attack is None:
        attack = perturb(vae, classifier, shard, condition, twin_l2)
    images = attack.images
    with torch.no_grad():
        confidence, predicted = answers(classifier, images).double().softmax(dim=1).max(dim=1)
        mean, log_variance = posterior(vae, images)
        divergence = kl_of_posterior(mean, log_variance)
        shift = (mean - posterior(vae, shard.pixels)[0]).norm(dim=1)

    offset = 0  # chunks reach the reduction in order

    def summarise(rows: Tensor, reconstructions: Tensor) -> Tensors:
        nonlocal offset
        chosen = predicted[offset : offset + len(rows), None, None].expand(-1, draws, 1)
        offset += len(rows)
        logits = answers(classifier, reconstructions.flatten(0, 1))
        probability = logits.softmax(dim=1).view(len(rows), draws, -1)
        highest, label = probability.max(dim=2)
        return {
            "draw_label": label.to(torch.int16),
            "draw_probability": highest,
            "draw_own_probability": probability.gather(2, chosen).squeeze(2),
            "draw_mse": squared_error(rows, reconstructions),
            "log_likelihood": log_bernoulli(rows, reconstructions[:, :DRAWS]).mean(dim=1),
        }

    seed = seed_for("reconstructions", shard.seed)
    table = reconstruct(
        vae, images, draws=draws, seed=seed, indices=shard.indices, reduce=summarise, precision=precision
    )
    table |= {
        "index": shard.indices,
        "label": shard.labels,
        "success": attack.success,
        "l2": attack.l2,
        "evaluations": attack.evaluations,
        "flags": attack.flags,
        "predicted": predicted,
        "confidence": confidence,
        "ink": images.mean(dim=(1, 2, 3)),
        "kl": divergence,
        "latent_shift": shift,
        "elbo": table.pop("log_likelihood") - divergence,
    }
    return {name: column.cpu() for name, column in table.items()}


def drawn(condition: str) -> int:
    """Reconstructions drawn of each image under a condition."""
    return MANY_DRAWS if condition in MANY else DRAWS


def perturb(
    vae: Autoencoder, classifier: Classify, shard: Shard, condition: str, twin_l2: Tensor | None = None
) -> Attack:
    """The shard's images under a condition: attacked, noisy or as they are."""
    images, labels, indices, count = shard.pixels, shard.labels, shard.indices, len(shard.pixels)
    kind, _, epsilon = condition.rpartition("-")
    if condition not in CONDITIONS:
        raise ValueError(f"condition must be one of {', '.join(CONDITIONS)}; got {condition!r}")
    if condition == CLEAN:
        return _noisy(images, images)
    if condition in (LBFGS, CONFIDENT):
        with torch.no_grad():
            logits = answers(classifier, images)
        classes, taken = logits.shape[1], logits.argmax(dim=1)
        targets = random_targets(labels, indices, classes=classes, seed=shard.seed, predicted=taken)
        return lbfgs(classifier, images, targets, confidence=CONFIDENCE if condition == CONFIDENT else None)
    if kind == "fgsm":
        return fgsm(classifier, images, labels, epsilon=float(epsilon), keep_failed=True)
    if condition in ADAPTIVE:
        detector = VAEDetector(vae, classifier, draws=EOT_DRAWS, error_weight=ERROR_WEIGHT[condition])
        # The attacker's draws are not the detector's: another purpose, another seed.
        seed = seed_for(f"attack/{condition}", shard.seed)
        return joint_pgd(detector, shard, float(epsilon), STEPS[condition], seed)
    draw = partial(_noise, seed=seed_for(kind, shard.seed), indices=shard.indices, like=images)
    if kind == "uniform":
        return _noisy(images, (images + float(epsilon) * (2 * draw(uniform) - 1)).clamp(0, 1))
    if kind == "sign":
        return _noisy(images, (images + float(epsilon) * draw(signs)).clamp(0, 1))
    if twin_l2 is None or twin_l2.shape != (count,):
        raise ValueError(f"{condition} needs twin_l2, the size of the L-BFGS perturbation of each of {count} images")
    return _noisy(images, at_distance(images, draw(normal), twin_l2.to(images.device)))


def joint_pgd(detector: VAEDetector, shard: Shard, epsilon: float, steps: int, seed: int) -> Attack:
    """The adaptive attacker: PGD on a detector, with failures kept, since the detector must tell these as well."""
    return pgd(
        detector,
        shard.pixels,
        shard.labels,
        epsilon=epsilon,
        step_size=4 * epsilon / steps,
        steps=steps,
        seed=seed,
        indices=shard.indices,
        keep_failed=True,
        chunk=CHUNK,
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


def _noise(generate: Callable[..., Tensor], *, seed: int, indices: Tensor, like: Tensor) -> Tensor:
    return generate(seed, indices, draws=1, size=like[0].numel(), device=like.device).view_as(like)


def _noisy(clean: Tensor, images: Tensor) -> Attack:
    """Noise as the result of an attack that always reaches its aim and asks for no gradient."""
    every = torch.ones(len(images), dtype=torch.bool, device=images.device)
    none = torch.zeros(2, len(images), dtype=torch.int64, device=images.device)
    return outcome(clean, images, every, evaluations=none[0], flags=none[1].clone())


@dataclass(frozen=True, eq=False)
class Table:
    """Evidence of all runs under a condition: columns (runs, images) or, those named `draw_`, (runs, images, draws).

    What is said of the draws (`distinct`, `disagreement`, `mse`) is said of all that the table has.
    """

    columns: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, runs: Sequence[Tensors]) -> "Table":
        """Stack the evidence of each run."""
        return cls({name: np.stack([run[name].numpy() for run in runs]) for name in runs[0]})

    @classmethod
    def of_shards(cls, shards: Sequence[Tensors], each: int) -> "Table":
        """Join the shards of each run, of which it has `each`, and stack the runs."""
        runs = [shards[start : start + each] for start in range(0, len(shards), each)]
        return cls.of([{name: torch.cat([shard[name] for shard in run]) for name in run[0]} for run in runs])

    def __getitem__(self, name: str) -> NDArray[Any]:
        """A column, as documented at `collect`."""
        return self.columns[name]

    def take(self, images: NDArray[Any] | slice) -> "Table":
        """The same table for some of its images."""
        return Table({name: column[:, images] for name, column in self.columns.items()})

    def first_draws(self, draws: int) -> "Table":
        """The same table with the first draws only; raises ValueError where it has fewer."""
        there = self["draw_label"].shape[2]
        if not 1 <= draws <= there:
            raise ValueError(f"draws must be from 1 to {there}, those that were collected; got {draws}")
        short = {name: column[:, :, :draws] for name, column in self.columns.items() if name.startswith("draw_")}
        return Table({**self.columns, **short})

    @property
    def distinct(self) -> NDArray[np.int64]:
        """Number of distinct labels over the draws."""
        labels = torch.from_numpy(self["draw_label"])
        return distinct_labels(labels.flatten(0, 1)).view(labels.shape[:2]).numpy()

    @property
    def consistent(self) -> NDArray[np.bool_]:
        """Whether all reconstructions of an image got one label."""
        return np.asarray(self.distinct == 1)

    @property
    def disagreement(self) -> NDArray[np.float64]:
        """Soft disagreement, 0 to 1: one minus the mean probability of the image's own label over its draws."""
        return np.asarray(1 - self["draw_own_probability"].mean(axis=2, dtype=np.float64))

    @property
    def mse(self) -> NDArray[np.float64]:
        """Reconstruction error: pixel MSE, mean over the draws."""
        return np.asarray(self["draw_mse"].mean(axis=2, dtype=np.float64))

    @property
    def doubt(self) -> NDArray[np.float64]:
        """One minus the classifier's max softmax: the trivial detector."""
        return np.asarray(1 - self["confidence"])

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether the classifier's label is not the image's."""
        return np.asarray(self["predicted"] != self["label"])
