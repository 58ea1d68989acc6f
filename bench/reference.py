"""The L-BFGS attack as others run it: scipy's L-BFGS-B, one image at a time. The yardstick for `vaecore.lbfgs`."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor
from torch.nn.functional import cross_entropy

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ReferenceAttack:
    """Images (n, c, height, width), success (n,), L2 norms (n,) with NaN for a failure, and evaluations (n,)."""

    images: Tensor
    success: Tensor
    l2: Tensor
    evaluations: Tensor


class _Objective:
    """c * cross-entropy + squared L2 norm for one image, in float64, which keeps the nearest success of all calls."""

    def __init__(self, classifier: Callable[[Tensor], Tensor], image: Tensor, target: Tensor) -> None:
        self.classifier = classifier
        self.image = image
        self.clean: Vector = image.flatten().double().numpy()
        self.target = target
        self.nearest: Vector | None = None
        self.nearest_square = np.inf
        self.succeeded = False
        self.evaluations = 0

    def loss_and_slope(self, pixels: Vector) -> tuple[float, Vector]:
        """Cross-entropy and its gradient; notes whether the target is predicted, and how near to the clean image."""
        leaf = torch.from_numpy(pixels).to(self.image.dtype).view(1, *self.image.shape).requires_grad_()
        logits = self.classifier(leaf)
        loss = cross_entropy(logits, self.target.view(1))
        (gradient,) = torch.autograd.grad(loss, leaf)
        self.evaluations += 1
        self.succeeded = int(logits.argmax()) == int(self.target)
        square = float(np.square(pixels - self.clean).sum())
        if self.succeeded and square < self.nearest_square:
            self.nearest, self.nearest_square = pixels.copy(), square
        return loss.item(), gradient.flatten().double().numpy()

    def first_constant(self) -> float:
        """The c whose minimiser would lie about at the class boundary, were the classifier linear and unbounded."""
        loss, gradient = self.loss_and_slope(self.clean)
        outward = ((self.clean <= 0) & (gradient > 0)) | ((self.clean >= 1) & (gradient < 0))
        return 4 * loss / max(float(np.square(gradient[~outward]).sum()), 1e-12)

    def minimise(self, constant: float, start: Vector, iterations: int) -> Vector:
        """The minimiser at `constant`, from `start`; afterwards `succeeded` speaks of it."""

        def objective(pixels: Vector) -> tuple[float, Vector]:
            loss, gradient = self.loss_and_slope(pixels)
            change = pixels - self.clean
            return constant * loss + float(change @ change), constant * gradient + 2 * change

        # factr=1e5 (relative decrease 2e-11) and pgtol=0: float32 gradients end the descent, not the settings.
        minimiser, _, _ = fmin_l_bfgs_b(
            objective, start, bounds=[(0, 1)] * len(start), maxiter=iterations, factr=1e5, pgtol=0
        )
        self.loss_and_slope(minimiser)
        return np.asarray(minimiser, dtype=np.float64)


def scipy_lbfgs(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    constants: int = 9,
    iterations: int = 100,
    warm_start: bool = False,
) -> ReferenceAttack:
    """The attack of `vaecore.lbfgs` by scipy, image by image: same objective, same search over c, generous budget.

    images: (n, c, height, width) in [0, 1] on the CPU. targets: (n,). `constants` values of c are tried, each from the
    clean image or, with `warm_start`, from the last minimiser. Source: Szegedy et al. (2013), section 4.1.
    """
    found, success, norms, evaluations = [], [], [], []
    for image, target in zip(images, targets, strict=True):
        problem = _Objective(classifier, image, target)
        constant, low, high = problem.first_constant(), 0.0, np.inf
        start = problem.clean
        for settled in range(1, 1 if problem.succeeded else constants + 1):
            minimiser = problem.minimise(constant, start, iterations)
            if problem.succeeded:
                high = constant
            else:
                low = constant
            factor = 2.0**settled
            constant = low * factor if np.isinf(high) else high / factor if low == 0 else float(np.sqrt(low * high))
            start = minimiser if warm_start else problem.clean
        nearest = problem.clean if problem.nearest is None else problem.nearest
        found.append(torch.from_numpy(nearest).to(image.dtype).view(image.shape))
        success.append(problem.nearest is not None)
        norms.append(np.sqrt(problem.nearest_square) if problem.nearest is not None else np.nan)
        evaluations.append(problem.evaluations)
    return ReferenceAttack(
        torch.stack(found), torch.tensor(success), torch.tensor(norms, dtype=torch.float32), torch.tensor(evaluations)
    )
