"""What all benchmarks share: devices, timing, and what is noted of each in `extra_info`."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import cpuinfo
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.roofline import Work, work_of
from vaecore.toolkit import Precision

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]


def measure(
    benchmark: BenchmarkFixture,
    function: Callable[[], Tensor],
    *,
    task: str,
    way: str,
    images: int,
    device: str,
    rounds: int,
    warmup_rounds: int = 1,
    work: Work | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """Time one way to do a task on some images, with the GPU's queue emptied; gives what the function gave.

    work: what the task needs; where None, what this way computes, counted in a call of its own, unless there is no
    warm-up. precision: of its products. In `extra_info`: way, images, device and its name, threads,
    ms_per_image and images_per_second; and where there is work, gflops (billions of its operations a second),
    limit_images_per_second and fraction_of_limit (see `bench.roofline`).
    """

    def synchronised() -> Tensor:
        result = function()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    if work is None and warmup_rounds:
        work = work_of(synchronised)
    limit = None if work is None else work.limit(device, precision)
    benchmark.group = f"{task}, {device}"
    result: Tensor = benchmark.pedantic(  # type: ignore[no-untyped-call]
        synchronised, rounds=rounds, warmup_rounds=warmup_rounds
    )
    benchmark.extra_info |= {"way": way, "images": images, "device": device, "device_name": device_name(device)}
    benchmark.extra_info["threads"] = torch.get_num_threads()
    if benchmark.stats is not None:  # None with --benchmark-disable
        seconds = benchmark.stats.stats.median
        benchmark.extra_info |= {"ms_per_image": 1e3 * seconds / images, "images_per_second": images / seconds}
        if work is not None and limit:
            benchmark.extra_info |= {
                "gflops": work.operations / seconds / 1e9,
                "limit_images_per_second": images / limit,
                "fraction_of_limit": limit / seconds,
            }
    return result


@lru_cache(maxsize=2)
def device_name(device: str) -> str:
    """What the processor or GPU is called."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return str(cpuinfo.get_cpu_info().get("brand_raw", "CPU"))


@dataclass(frozen=True)
class Victims:
    """A classifier and what is attacked: images (n, c, h, w), their labels (n,), and targets (n,) for L-BFGS."""

    classifier: nn.Module
    images: Tensor
    labels: Tensor
    targets: Tensor

    def first(self, count: int) -> "Victims":
        """The first of the images."""
        return replace(self, images=self.images[:count], labels=self.labels[:count], targets=self.targets[:count])

    def to(self, device: str) -> "Victims":
        """A copy on a device."""
        classifier = copy.deepcopy(self.classifier).to(device)  # the study's own stays where it is
        return Victims(classifier, self.images.to(device), self.labels.to(device), self.targets.to(device))

    def norms(self, adversarial: Tensor, *, targeted: bool) -> Tensor:
        """L2 norm (n,) of each perturbation; NaN unless the classifier, asked now, is fooled by an image in [0, 1]."""
        with torch.no_grad():
            predicted = torch.cat([self.classifier(part).argmax(dim=1) for part in torch.split(adversarial, 500)])
        fooled = predicted == self.targets if targeted else predicted != self.labels
        inside = ((adversarial >= 0) & (adversarial <= 1)).flatten(1).all(dim=1)
        norms = torch.linalg.vector_norm((adversarial - self.images).flatten(1), dim=1)
        return torch.where(fooled & inside, norms, torch.nan)


Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(classifier, images, labels or targets) to adversarial images."""


def measure_attack(
    benchmark: BenchmarkFixture,
    attack: Attack,
    victims: Victims,
    *,
    targeted: bool,
    task: str,
    way: str,
    rounds: int = 3,
    warmup_rounds: int = 1,
) -> Tensor:
    """Time an attack and ask the classifier what succeeded; the L2 norms (n,) of successes, NaN for failures.

    In `extra_info` besides: evaluations, how many images the classifier was shown for each one attacked; median_l2 of
    the successes; success, their share.
    """
    images, classes = victims.images, victims.targets if targeted else victims.labels
    calls = 0

    def call() -> Tensor:
        nonlocal calls
        calls += 1
        return attack(victims.classifier, images, classes)

    with shown(victims.classifier) as sizes:
        adversarial = measure(
            benchmark,
            call,
            task=task,
            way=way,
            images=len(images),
            device=images.device.type,
            rounds=rounds,
            warmup_rounds=warmup_rounds,
        )
    l2 = victims.norms(adversarial, targeted=targeted)
    benchmark.extra_info |= {
        "evaluations": round(sum(sizes) / calls / len(images), 1),
        "median_l2": float(l2.nanmedian()),
        "success": float(l2.isfinite().float().mean()),
    }
    return l2


def l2_ratio(*, ours: Tensor, theirs: Tensor) -> list[float]:
    """Our norms (n,) over theirs, image by image: median and 95% quantile, where neither failed."""
    ratio = ours / theirs
    return [float(ratio.nanquantile(level)) for level in (0.5, 0.95)]


@contextmanager
def shown(classifier: nn.Module) -> Iterator[list[int]]:
    """The number of images in each call of the classifier, as they come."""
    sizes: list[int] = []
    hook = classifier.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    try:
        yield sizes
    finally:
        hook.remove()
