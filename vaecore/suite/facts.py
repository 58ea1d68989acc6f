"""Facts about a study that judging, bounds, reports and the terminal share. Plain values; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Facts:
    """What a study looks at, known before anything is computed.

    why: this data set was chosen. train_digest, train_images: None where there are no training images. train_use: what
    these are for, or why there are none, in words. images: test images under each condition. fixed: both models are
    finished ones, so that there is one run. finished: models ("vae", "classifier") that are the same in all runs.
    covers: what the intervals cover, in words. too_little: why the study is too small to judge a claim, "smoke" or "one
    run" of models that vary, else empty. left_out: sets outside that can't be compared, and why.
    """

    dataset: str
    why: str
    test_images: int
    test_digest: str
    train_digest: str | None
    profile: str
    budget: float
    draws: int
    precision: str
    seeds: tuple[int, ...]
    images: Mapping[str, int]
    vae: str
    classifier: str
    fixed: bool
    finished: tuple[str, ...]
    covers: str
    pilot: bool
    too_little: str
    device: str
    gpu: str | None
    workers: int
    threads: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    train_images: int | None = None
    train_use: str = ""

    @property
    def runs(self) -> int:
        """Training runs."""
        return len(self.seeds)

    @property
    def reference(self) -> bool:
        """Whether both models are the reference models."""
        return self.vae == self.classifier == "reference"


@dataclass(frozen=True)
class Precondition:
    """What must hold of the models, attacks and sets of a study for claims to mean something.

    name: what is amiss where it is not met, in few words. text: what is measured. value: of the worst run, or set;
    least: of it where it is met. undermines: families of claims, and full names of conditions.
    """

    name: str
    text: str
    value: float
    least: float
    undermines: frozenset[str]

    @property
    def met(self) -> bool:
        """Whether it holds; not where nothing could be measured."""
        return self.value >= self.least

    def __str__(self) -> str:
        """What was measured and what is asked for, in words."""
        return f"{self.text}: {self.value:.3g} ({self.least:.3g} or more {'is' if self.met else 'would be'} enough)"
