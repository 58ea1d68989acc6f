"""Facts about a study that judging, bounds, reports and the terminal share. Plain values; imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Facts:
    """What a study looks at, known before anything is computed.

    why: this data set was chosen. train_digest, train_images: None where no model is trained. images: test images under
    each condition. fixed: both models are finished ones, so that there is one run. finished: models ("vae",
    "classifier") that are the same in all runs. covers: what the intervals cover, in words. decisive: whether the study
    is large enough to support a claim: no smoke test, and not one run of models that vary. left_out: sets outside that
    can't be compared, and why.
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
    decisive: bool
    device: str
    gpu: str | None
    workers: int
    threads: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    train_images: int | None = None

    @property
    def runs(self) -> int:
        """Training runs."""
        return len(self.seeds)

    @property
    def reference(self) -> bool:
        """Whether both models are the reference models."""
        return self.vae == self.classifier == "reference"
