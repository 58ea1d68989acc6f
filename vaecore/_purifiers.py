"""Purifiers, which clean images before they are classified, and classifiers behind a purifier."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import conv2d, one_hot, pad, unfold

from vaecore._batch_sizes import answers
from vaecore._calls import ask, to_evaluation
from vaecore._check import (
    check_choice,
    check_classifier,
    check_counts,
    check_images,
    check_integer,
    check_labels,
    check_number,
    check_seed,
    check_type,
    check_vae,
)
from vaecore._modes import in_any_mode
from vaecore._noise import image_indices, normal, seed_for
from vaecore.attacks._attack import Loss, Objective, class_loss
from vaecore.models._networks import Autoencoder, Classify
from vaecore.reconstruction._decode import decode_draws, latents_of, posterior

Decide = Literal["mean-image", "mean-softmax", "majority"]
Backward = Literal["exact", "identity"]  # or a purifier
_DAMPING = 1e-5  # of the second derivative that a latent search is differentiated by, as a share of its mean


class Purifier(nn.Module):
    """A module that maps images (n, c, h, w) in [0, 1] to cleaned images of the same shape and range.

    `views` returns all cleaned versions of each image. `forward` returns their mean, so that a purifier can precede any
    classifier in an `nn.Sequential`. differentiable: whether its gradient is useful. If not (rounding), attacks
    replace it by the identity in the backward pass (see `Purified`).
    """

    differentiable = True
    draws = 1
    random = False  # whether views change with the seed

    def __init__(self) -> None:
        super().__init__()
        self.training = False  # a purifier itself has no other mode; models in it have their own

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """Cleaned images, (n, draws, c, h, w); their noise depends only on the seed and the image's index."""
        raise NotImplementedError

    def with_draws(self, draws: int) -> "Purifier":
        """This purifier with at most `draws` views, to limit what an attacker computes in each step."""
        del draws
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The mean over the views, with seed 0 and each image's position in the batch as its index."""
        images = check_images(images)
        return self.views(images, image_indices(len(images), 0, None).to(images.device), 0).mean(dim=1)


class Threshold(Purifier):
    """1 where a pixel is at or above the level, else 0."""

    differentiable = False

    def __init__(self, level: float = 0.5) -> None:
        super().__init__()
        self.level = check_number("level", level, lambda value: 0 < value <= 1, "above 0 and at most 1")

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:  # noqa: ARG002  # for random purifiers
        """One view."""
        return (images >= self.level).to(images.dtype).unsqueeze(1)


class BitDepth(Purifier):
    """Pixels rounded to `bits` bits (Xu et al. 2018, feature squeezing)."""

    differentiable = False

    def __init__(self, bits: int = 1) -> None:
        super().__init__()
        self.steps = 2 ** check_integer("bits", bits, 1, 8) - 1

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        """One view."""
        rounded: Tensor = (images * self.steps).round() / self.steps
        return rounded.unsqueeze(1)


class JPEG(Purifier):
    """Pixels compressed as a JPEG file of this quality, and read again (Dziugaite et al. 2016; Guo et al. 2018).

    quality: 1 to 100, libjpeg's scale; both papers take 75. Pixels are rounded to bytes first; in colour, hue has half
    the resolution. Computed on the CPU, by Pillow.
    """

    differentiable = False

    def __init__(self, quality: int = 75) -> None:
        super().__init__()
        self.quality = check_integer("quality", quality, 1, 100)

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        """One view."""
        content = images.detach().mul(255).round().to(torch.uint8).cpu().permute(0, 2, 3, 1).contiguous().numpy()
        cleaned = np.empty_like(content)
        for image, read in zip(content.squeeze(3) if images.shape[1] == 1 else content, cleaned, strict=True):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=self.quality)
            read[:] = np.asarray(Image.open(file, formats=("JPEG",))).reshape(read.shape)
        return torch.from_numpy(cleaned).permute(0, 3, 1, 2).contiguous().to(images).div(255).unsqueeze(1)


class MedianFilter(Purifier):
    """Median of each pixel's size x size neighbourhood, per channel, mirrored at the border (Xu et al. 2018).

    Images must be more than size // 2 pixels high and wide.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.size = check_integer("size", size, 1)
        if self.size % 2 == 0:
            raise ValueError(f"size must be odd; got {size} (the neighbourhood has the pixel in its middle)")

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        """One view."""
        around = unfold(_mirrored(images, self.size // 2, f"a median of {self.size}x{self.size} pixels"), self.size)
        return around.median(dim=1).values.view_as(images).unsqueeze(1)


class GaussianBlur(Purifier):
    """Convolution with a Gaussian of standard deviation `sigma` pixels, per channel, mirrored at the border.

    The kernel ends at 3 sigma; images must be more than 3 sigma pixels high and wide.
    """

    def __init__(self, sigma: float = 1.0) -> None:
        super().__init__()
        self.sigma = check_number("sigma", sigma, lambda value: 0 < 3 * value < math.inf, "above 0 and finite")

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        """One view."""
        # torchvision has this filter, but takes as long to import as torch.
        edge = round(3 * self.sigma)
        padded = _mirrored(images, edge, f"a blur of sigma {self.sigma:g}")
        offset = torch.arange(-edge, edge + 1, dtype=images.dtype, device=images.device)
        kernel = (-0.5 * (offset / self.sigma).square()).softmax(dim=0)
        blurred = conv2d(conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
        return blurred.clamp(0, 1).view_as(images).unsqueeze(1)


def _mirrored(images: Tensor, edge: int, what: str) -> Tensor:
    """Each channel as an image of its own, with `edge` pixels mirrored on each side, (n * channels, 1, h + .., w + ..).

    Raises ValueError, which names `what` needs them, for images that are not larger.
    """
    height, width = images.shape[2:]
    if edge >= min(height, width):
        raise ValueError(f"{what} needs images of more than {edge:g} pixels high and wide; got {height}x{width}")
    return pad(images.reshape(-1, 1, height, width), (edge,) * 4, mode="reflect")


class VAEPurifier(Purifier):
    """Reconstructions by a VAE from `draws` samples of the posterior; draws=None: from its mean, without noise."""

    def __init__(self, vae: Autoencoder, *, draws: int | None = None) -> None:
        super().__init__()
        check_vae(vae)
        self.vae, self.random = vae, draws is not None
        self.draws = check_integer("draws", 1 if draws is None else draws, 1)

    def with_draws(self, draws: int) -> "Purifier":
        """The same purifier with at most `draws` draws."""
        return self if self.draws <= draws else VAEPurifier(self.vae, draws=draws)

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """The same reconstructions as `reconstruct` at the same seed and indices."""
        encoded = posterior(self.vae, images)
        latents = encoded[0].unsqueeze(1)
        if self.random:
            noise = normal(seed, indices, draws=self.draws, size=latents.shape[2], device=images.device)
            latents = latents_of(encoded, noise)
        return decode_draws(self.vae, latents, images.shape)


class Chain(Purifier):
    """Purifiers in sequence; `Chain([purifier] * 3)` cleans three times."""

    def __init__(self, purifiers: Sequence[Purifier]) -> None:
        super().__init__()
        check_type("purifiers", purifiers, Iterable, "one purifier: [purifier]")
        if not purifiers:
            raise ValueError("purifiers must be one or more; got none")
        for purifier in purifiers:
            check_type("a purifier of the chain", purifier, Purifier)
        self.purifiers = nn.ModuleList(purifiers)
        self.differentiable = all(purifier.differentiable for purifier in purifiers)
        self.random = any(purifier.random for purifier in purifiers)
        self.draws = purifiers[-1].draws

    def with_draws(self, draws: int) -> "Purifier":
        """The same chain with at most `draws` views of its last purifier."""
        *first, last = self.purifiers
        assert isinstance(last, Purifier)
        return self if self.draws <= draws else Chain([*first, last.with_draws(draws)])  # type: ignore[list-item]

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """The views of the last purifier; each purifier is applied to the mean view of the previous."""
        views = images.unsqueeze(1)
        for number, purifier in enumerate(self.purifiers):
            assert isinstance(purifier, Purifier)
            views = purifier.views(views.mean(dim=1), indices, seed_for(f"chain/{number}", seed))
        return views


class LatentSearch(Purifier):
    """The decoded latent with the least squared error, found by gradient descent.

    Like Defense-GAN (Samangouei et al. 2018), with a VAE's decoder as the generator. `steps` steps of Adam at learning
    rate `rate` run from `starts` draws of the prior for each image, and the best result is kept. Its gradient is that
    of the least error, by the implicit function theorem with Gauss and Newton's second derivative: the steps need not
    be differentiated.
    """

    random = True  # in where it starts

    def __init__(self, vae: Autoencoder, *, steps: int = 100, starts: int = 4, rate: float = 0.1) -> None:
        super().__init__()
        check_vae(vae)
        self.vae = vae
        self.steps, self.starts = check_counts(steps=steps, starts=starts)
        self.rate = check_number("rate", rate, lambda value: 0 < value < math.inf, "above 0 and finite")

    def views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """One view."""
        latents = self._search(images.detach(), indices, seed)
        if torch.is_grad_enabled() and images.requires_grad:
            # The latents themselves, whose gradient with respect to the images is what `_slopes` says.
            change = (images - images.detach()).flatten(1).unsqueeze(2)
            latents = latents + (self._slopes(latents, images.shape) @ change).squeeze(2)
        return decode_draws(self.vae, latents.unsqueeze(1), images.shape)

    @in_any_mode
    def _search(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        """The latents, (n, latent)."""
        size = posterior(self.vae, images[:1])[0].shape[1]
        start = normal(seed_for("latent-search", seed), indices, draws=self.starts, size=size, device=images.device)
        target = images.unsqueeze(1)
        latents = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=self.rate)
        for _ in range(self.steps):
            error = (decode_draws(self.vae, latents, images.shape) - target).square().sum(dim=(2, 3, 4))
            (latents.grad,) = torch.autograd.grad(error.sum(), latents)
            optimizer.step()
        with torch.no_grad():
            decoded = decode_draws(self.vae, latents, images.shape)
            best = (decoded - target).square().sum(dim=(2, 3, 4)).argmin(dim=1)
            return latents[torch.arange(len(images), device=images.device), best]

    def _slopes(self, latents: Tensor, shape: torch.Size) -> Tensor:
        """How the latents of the least error change with the pixels, (n, latent, pixels): (J J^T)^-1 J, where J is the
        decoder's slopes, (latent, pixels)."""
        leaf = latents.detach().requires_grad_()
        decoded = decode_draws(self.vae, leaf.unsqueeze(1), shape)
        weight = torch.zeros_like(decoded, requires_grad=True)
        # The slope of a product with weights, which is linear in them, gives the decoder's slopes a latent at a time.
        (pulled,) = torch.autograd.grad(decoded, leaf, weight, create_graph=True)
        columns = pulled.sum(dim=0)
        slopes = torch.stack(
            [torch.autograd.grad(column, weight, retain_graph=True)[0].flatten(1) for column in columns], dim=1
        )
        square = slopes @ slopes.transpose(1, 2)
        # Latents that the decoder does not use have no slope: a little of the others' keeps the product invertible.
        scale = square.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=torch.finfo(square.dtype).tiny ** 0.5)
        damping = _DAMPING * scale.view(-1, 1, 1) * torch.eye(square.shape[1], dtype=square.dtype, device=square.device)
        solved: Tensor = torch.linalg.solve(square + damping, slopes)
        return solved


class Purified(nn.Module):
    """A classifier behind a purifier: images (n, c, h, w) in [0, 1] to logits (n, classes); attacks accept it.

    decide: how the views are combined. "mean-image" classifies their mean. "mean-softmax" returns the logarithm of
    their mean softmax. "majority" returns the number of votes for each class plus the mean softmax, which breaks ties.
    With one view all three give the same label.

    Attacks differentiate through purifier and classifier and draw new views at each step (expectation over
    transformation, EOT; Athalye et al. 2018, section 4.2). eot: draws of the views in each step. The loss is that of
    the decision; for "majority" that of the mean softmax. Success is measured with the attack's noise; `forward` tells
    it with the defender's. backward: "exact" differentiates the purifier; "identity" replaces it by the identity in the
    backward pass (BPDA; section 4.1 there); a purifier is differentiated in its place. None is "exact" if the purifier
    is differentiable, else "identity".
    """

    def __init__(
        self,
        purifier: Purifier,
        classifier: Classify,
        *,
        decide: Decide = "mean-image",
        eot: int = 1,
        backward: Backward | Purifier | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("decide", decide, get_args(Decide))
        is_named = isinstance(backward, str) and backward in ("exact", "identity")
        if not (backward is None or isinstance(backward, Purifier) or is_named):
            raise ValueError(f"backward must be 'exact', 'identity', a purifier or None; got {backward!r}")
        check_type("purifier", purifier, Purifier)
        check_classifier(classifier)
        self.purifier, self.classifier, self.decide = purifier, classifier, decide
        self.eot, self.seed = check_integer("eot", eot, 1), check_seed(seed)
        self.backward = backward or ("exact" if purifier.differentiable else "identity")
        to_evaluation(self)

    def forward(self, images: Tensor, indices: Tensor | None = None) -> Tensor:
        """Logits; the noise depends on the seed and the images' indices, by default their positions in the batch."""
        images = check_images(images)
        index = image_indices(len(images), 0, indices).to(images.device)
        return self.of_views(ask(lambda given: self.purifier.views(given, index, self.seed), images))

    def of_views(self, views: Tensor, each: Tensor | None = None) -> Tensor:
        """Logits (n, classes) of given views (n, draws, c, h, w).

        each: the result of `each(views)`, if it is known already.
        """
        return self._decide(views, each, smooth=False)

    def each(self, views: Tensor) -> Tensor:
        """The classifier's log-softmax of each view, (n, draws, classes)."""
        count, draws = views.shape[:2]
        return answers(self.classifier, views.flatten(0, 1)).log_softmax(dim=1).view(count, draws, -1)

    def objective(self, aims: Tensor, *, targeted: bool, loss: Loss, indices: Tensor, seed: int) -> Objective:
        """The attacker's objective (see `vaecore.Victim`); an image's noise depends on (seed, index, step)."""

        def objective(points: Tensor, rows: Tensor, step: int) -> tuple[Tensor, Tensor]:
            aim = aims[rows]
            won, losses = [], []
            for repeat in range(self.eot):
                noise_seed = seed_for(f"eot/{step}/{repeat}", seed)
                logits = self._decide(self._views(points, indices[rows], noise_seed), smooth=True)
                check_labels(aims, len(aims), classes=logits.shape[1], name="targets" if targeted else "labels")
                won.append((logits.detach().argmax(dim=1) == aim) == targeted)
                losses.append(class_loss(logits, aim, targeted=targeted, loss=loss))
            return torch.stack(won).all(dim=0), torch.stack(losses).mean(dim=0)

        return objective

    def _views(self, images: Tensor, indices: Tensor, seed: int) -> Tensor:
        views: Tensor = ask(lambda given: self.purifier.views(given, indices, seed), images)
        if self.backward == "exact":
            return views
        substitute = images.unsqueeze(1)
        if isinstance(self.backward, Purifier):
            stand_in = self.backward
            substitute = ask(lambda given: stand_in.views(given, indices, seed), images).mean(dim=1, keepdim=True)
        substitute = substitute.expand_as(views)
        return substitute + (views - substitute).detach()

    def _decide(self, views: Tensor, each: Tensor | None = None, *, smooth: bool) -> Tensor:
        """smooth: return the mean softmax, which has a gradient, in place of the majority."""
        draws = views.shape[1]
        if self.decide == "mean-image" or draws == 1:
            return answers(self.classifier, views.mean(dim=1))
        each = self.each(views) if each is None else each
        mean = each.logsumexp(dim=1) - torch.tensor(float(draws)).log()
        if self.decide == "mean-softmax" or smooth:
            return mean
        return one_hot(each.argmax(dim=2), each.shape[2]).sum(dim=1) + mean.exp()
