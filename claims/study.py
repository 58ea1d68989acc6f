"""A study: one data set, the models of each run, and the evidence they give, each made once and kept in the store."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from claims import evidence, workers
from claims.cleaning import Cleaning
from claims.decisions import Decisions
from claims.evidence import ADAPTIVE, DRAWS, MINIMAL, SHOWN, TWINS, Shard, Table, collect
from claims.outside import Outside
from claims.user_models import makes_models, model_digest, user_model
from vaecore import _adaptive, _attacks, _augment, _lbfgs, _models, _noise, _pgd, _precision, _reconstruct, _training
from vaecore._images import Images, is_available, load_images, probe
from vaecore._models import Autoencoder, Classifier
from vaecore._noise import seed_for, words
from vaecore._precision import Precision, check_precision
from vaecore._store import NotKeptError, Store, Tensors, digest, source_digest
from vaecore._training import Progress, default_device, fit_classifier, fit_vae, reference_configs

Result = TypeVar("Result")
SHARD = 500  # images; what a kill costs at most
PILOT_SEED = 1000  # seeds from here on set bounds and are never used by the claims
# Training images that no model learns from, kept to fit what judges confidence: that many, or this share where fewer.
HELD_OUT, HELD_OUT_SHARE = 5_000, 0.1


@dataclass(frozen=True)
class Profile:
    """How much a study looks at: training runs, test images, and fewer of them for attacks that are dear."""

    name: str
    runs: int
    images: int
    lbfgs_images: int
    adaptive_images: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("smoke", 1, 200, 100, 20),
        Profile("standard", 5, 2_000, 500, 150),
        Profile("full", 10, 10_000, 1_000, 1_000),
    )
}


Meter = Callable[[str], AbstractContextManager[Progress]]
"""Shows how far a task has come: given its name, a context manager that gives a function (done, of) to call."""


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    """A meter that shows nothing."""
    yield lambda _done, _of: None


@dataclass(frozen=True)
class Dataset:
    """The name of the data set that a study looks at, and why it was chosen."""

    name: str
    why: str


def choose_dataset(name: str, root: str | None) -> Dataset:
    """Resolve "auto": MNIST where it is on disk or can be downloaded, else digits."""
    if name != "auto":
        return Dataset(name, "as asked")
    if is_available("mnist", root):
        return Dataset("mnist", "found on disk")
    if probe("mnist"):
        try:
            load_images("mnist", "test", root)
        except OSError as error:
            return Dataset("digits", f"MNIST's download failed ({error}); digits is embedded")
        return Dataset("mnist", "downloaded")
    return Dataset("digits", "MNIST is neither on disk nor to be had by network; digits is embedded")


@dataclass(frozen=True, eq=False)
class Run:
    """The models of one training seed, with a digest of each one's weights."""

    seed: int
    vae: Autoencoder
    classifier: Callable[[torch.Tensor], torch.Tensor]
    vae_digest: str
    classifier_digest: str


@dataclass
class Study:
    """Everything that claims ask for; nothing is trained or computed before it is asked for.

    vae, classifier: None for the reference models, else what `--vae` and `--classifier` take.
    first_seed: of the runs; PILOT_SEED for pilots.
    """

    dataset: Dataset
    profile: Profile
    store: Store
    root: str | None = None
    device: torch.device = field(default_factory=default_device)
    vae: str | None = None
    classifier: str | None = None
    first_seed: int = 0
    precision: Precision = "float32"  # of the reconstructions in `table`
    ood: tuple[str, ...] = ()  # sets outside that are asked for, beside those at hand
    workers: int = 1  # processes that compute what the store has not; 1: this one, with all threads
    meter: Meter = silent
    wall_seconds: dict[str, float] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)  # conditions asked for, and
    kept: float = 1.0  # the smallest share of images that `paired` left, since they were last reset

    def check(self) -> None:
        """Raise now what would otherwise be raised late: unusable data, models that are not there."""
        check_precision(self.precision, self.device)
        _ = self.test
        _ = self.outside.sources
        for text, kind in self.given:
            if text is not None and not makes_models(text, kind):
                user_model(text, kind, self.first_seed, self.device)
        if None in (self.vae, self.classifier):
            _ = self.train
        if self.classifier is None and (self.test.classes or 0) > (self.train.classes or 0):
            raise ValueError(
                f"the test labels of {self.test.name} must be among the training labels, 0 to"
                f" {(self.train.classes or 0) - 1}; got up to {(self.test.classes or 0) - 1}"
            )

    @property
    def train(self) -> Images:
        """Training images, those that are held out left out."""
        return self._split[0]

    @property
    def held_out(self) -> tuple[Images, torch.Tensor]:
        """Training images that the reference models have not seen, and the index of each among all training images."""
        return self._split[1:]

    @cached_property
    def _split(self) -> tuple[Images, Images, torch.Tensor]:
        whole = load_images(self.dataset.name, "train", self.root)
        order = words(seed_for("held-out", 0), torch.arange(len(whole)), draws=1, size=1).flatten().argsort()
        held = order[: min(HELD_OUT, int(HELD_OUT_SHARE * len(whole)))]
        seen = torch.ones(len(whole), dtype=torch.bool)
        seen[held] = False
        return whole.take(seen), whole.take(held), held

    @cached_property
    def test(self) -> Images:
        """Test images, with labels."""
        test = load_images(self.dataset.name, "test", self.root)
        if test.labels is None:
            raise ValueError(f"claims need labels: {self.dataset.name} must have `labels` beside `images`")
        return test

    @cached_property
    def indices(self) -> torch.Tensor:
        """Indices of the test images looked at, in one random order for all studies; L-BFGS takes the first."""
        order = words(seed_for("test-images", 0), torch.arange(len(self.test)), draws=1, size=1).flatten().argsort()
        return order[: self.profile.images]

    @cached_property
    def fixed(self) -> bool:
        """Whether both models are the user's finished ones, so that there is one run and nothing to vary."""
        makers = [text is None or makes_models(text, kind) for text, kind in self.given]
        return not any(makers)

    @cached_property
    def seeds(self) -> list[int]:
        """Training seed of each run."""
        runs = 1 if self.fixed else self.profile.runs
        return list(range(self.first_seed, self.first_seed + runs))

    @cached_property
    def outside(self) -> Outside:
        """The sets outside, and their scores."""
        return Outside(self, self.ood)

    @cached_property
    def decisions(self) -> Decisions:
        """How far confidences can be believed, with the VAE's help and without."""
        return Decisions(self)

    @cached_property
    def cleaning(self) -> Cleaning:
        """What purifiers make of attacked images."""
        return Cleaning(self)

    @property
    def runs(self) -> list[Run]:
        """The models of all runs."""
        if self.workers > 1 and len(self._runs) < len(self.seeds):
            kinds = [kind for text, kind in reversed(self.given) if text is None]  # the longest task first
            calls = [(kind, number) for kind in kinds for number in range(len(self.seeds))]
            with self.timed("training"), self.meter("training") as advance:
                self.each(_train, calls, advance)
        return [self.run(number) for number in range(len(self.seeds))]

    def run(self, number: int) -> Run:
        """The models of a run, counted from 0: trained, read from the store, or the user's."""
        if number not in self._runs:
            seed, title = self.seeds[number], f"run {number + 1} of {len(self.seeds)}"
            vae = self._model("vae", seed, title)
            classifier = self._model("classifier", seed, title)
            probe = self.test.pixels[:64].to(self.device)
            digests = model_digest(vae, "vae", probe), model_digest(classifier, "classifier", probe)
            with torch.no_grad():
                classes = classifier(probe[:1]).shape[1]
            if classes < (self.test.classes or 0):
                wanted = f"all {self.test.classes} classes of {self.test.name}"
                raise ValueError(f"the classifier must know {wanted}; it gives {classes} logits")
            self._runs[number] = Run(seed, vae, classifier, *digests)
        return self._runs[number]

    def count(self, condition: str) -> int:
        """Test images looked at under a condition."""
        profile = self.profile
        limits = dict.fromkeys((*MINIMAL, *SHOWN), profile.lbfgs_images)
        limits |= dict.fromkeys(ADAPTIVE, profile.adaptive_images)
        return min(limits.get(condition, profile.images), len(self.test))

    @property
    def trial_images(self) -> int:
        """Test images on which an attacker's effort is varied, in the first run."""
        return min(max(2, self.profile.adaptive_images * 2 // 5), len(self.test))

    def table(self, condition: str, images: int | None = None, draws: int = DRAWS) -> Table:
        """Evidence of all runs under a condition; of the first `images` where given, to pair with fewer."""
        self.looked_at.add(condition)
        if condition not in self._tables:
            self._tables[condition] = self._collect(condition)
        table = self._tables[condition].first_draws(draws)
        return table if images is None else table.take(slice(images))

    def paired(self, *conditions: str, draws: int = DRAWS) -> list[Table]:
        """Evidence under several conditions for the images they share, from the first `draws` of each image.

        Images that L-BFGS leaves out (see `found`) are left out of all. `kept` says what share of the images is left.
        Raises ValueError where fewer than two are.
        """
        shared, found = min(self.count(condition) for condition in conditions), self.found(*conditions)
        tables = [self.table(condition, shared, draws) for condition in conditions]
        self.kept = min(self.kept, len(found) / shared)
        if len(found) < 2:
            raise ValueError(f"L-BFGS must succeed on some image in all runs; it did on {len(found)} of {shared}")
        return [table.take(found) for table in tables]

    def found(self, *conditions: str) -> NDArray[np.int64]:
        """Places of the images that these conditions share and have adversarial images of, where they should.

        Left out are those on which L-BFGS, where it or its twin is among them, failed in a run or found nothing to do.
        """
        shared = min(self.count(condition) for condition in conditions)
        attacks = [self.table(name, shared) for name in sorted({MINIMAL[c] for c in conditions if c in MINIMAL})]
        reached = [(attack["success"] & (attack["l2"] > 0)).all(axis=0) for attack in attacks]
        return np.flatnonzero(np.all([np.ones(shared, dtype=bool), *reached], axis=0))

    def accuracy(self, run: Run) -> float:
        """Share of all test images that a run's classifier labels rightly."""
        labels = self.test.labels
        assert labels is not None
        key = digest("accuracy", run.classifier_digest, self.test.digest, self.device.type)

        def compute() -> Tensors:
            with torch.no_grad():
                parts = [
                    run.classifier(rows.to(self.device)).argmax(dim=1).cpu()
                    for rows in torch.split(self.test.pixels, SHARD)
                ]
            return {"right": torch.cat(parts) == labels}

        return float(self.store.get("evidence", key, compute)["right"].double().mean())

    def for_worker(self) -> "Study":
        """The same study, that has looked at nothing yet, shows nothing and computes in its own process."""
        return replace(self, meter=silent, wall_seconds={}, looked_at=set(), workers=1)

    def each(
        self, function: Callable[..., Result], calls: Sequence[tuple[Any, ...]], advance: Progress
    ) -> list[Result]:
        """What function(study, *call) gives for each call, in order; by the workers where the store has not all of it.

        The function must belong to a module, keep what it computes in the store, and not depend on other calls.
        advance: told of finished calls.
        """
        found: dict[int, Result] = {}
        told = 0
        if self.workers > 1:
            with self.store.only_reading():
                for place, call in enumerate(calls):
                    with suppress(NotKeptError):
                        found[place] = function(self, *call)
            missing = [call for place, call in enumerate(calls) if place not in found]
            if len(missing) > 1:
                for told, _ in enumerate(workers.compute(self, function, missing), len(found) + 1):
                    advance(told, len(calls))
        for place, call in enumerate(calls):
            if place not in found:
                found[place] = function(self, *call)
                if len(found) > told:
                    advance(len(found), len(calls))
        return [found[place] for place in range(len(calls))]

    @cached_property
    def _runs(self) -> dict[int, Run]:
        return {}

    @cached_property
    def _tables(self) -> dict[str, Table]:
        return {}

    @property
    def given(self) -> tuple[tuple[str | None, str], tuple[str | None, str]]:
        """What `--vae` and `--classifier` say, each with its kind; None for the reference model."""
        return (self.vae, "vae"), (self.classifier, "classifier")

    def _model(self, kind: str, seed: int, title: str) -> Any:
        text = self.vae if kind == "vae" else self.classifier
        if text is not None:
            return user_model(text, kind, seed, self.device)
        with self.timed("training"):
            return self.reference_model(kind, seed, title)

    def reference_model(self, kind: str, seed: int, title: str) -> nn.Module:
        """The VAE or classifier of a seed, trained or read from the store."""
        vae_config, classifier_config = reference_configs(self.train)
        config = vae_config if kind == "vae" else classifier_config
        fit: Any = fit_vae if kind == "vae" else fit_classifier
        key = digest(kind, config, seed, self.train.digest, _MODELS_STAGE, self.device.type)

        def train() -> Tensors:
            with self.meter(f"training the {kind} of {title}") as advance:
                model = fit(self.train, config, seed=seed, device=self.device, progress=advance)
            return dict(model.state_dict())

        weights = self.store.get("models", key, train)
        shape = (self.train.pixels.shape[-2], self.train.pixels.shape[-1])
        model: nn.Module
        if kind == "vae":
            model = _models.VAE(vae_config, shape)
        else:
            model = Classifier(classifier_config, shape, self.train.classes or 0)
        model.load_state_dict(weights)
        return model.requires_grad_(requires_grad=False).to(self.device).eval()

    def _collect(self, condition: str) -> Table:
        runs, count = self.runs, self.count(condition)
        with self.timed("evidence"), self.meter(f"evidence: {condition}") as advance:
            shards = self.shards(count)
            calls = [(number, condition, *rows) for number in range(len(runs)) for rows in shards]
            found = self.each(_evidence, calls, advance)
        return Table.of_shards(found, len(shards))

    @staticmethod
    def shards(count: int) -> list[tuple[int, int]]:
        """Where each shard of so many images starts and stops."""
        return [(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]

    def evidence_shard(self, run: Run, condition: str, start: int, stop: int) -> Tensors:
        """Evidence of a run under a condition on some of the images, as `collect` gives it."""
        indices = self.indices[start:stop]
        assert self.test.labels is not None
        pixels, labels = self.test.pixels[indices], self.test.labels[indices]
        models = (run.vae_digest, run.classifier_digest)
        place = (self.device.type, self.precision)
        key = digest(condition, run.seed, *models, pixels, labels, indices, EVIDENCE_STAGE, *place)

        def compute() -> Tensors:
            shard = Shard(*(rows.to(self.device) for rows in (pixels, labels, indices)), run.seed)
            l2 = self.evidence_shard(run, TWINS[condition], start, stop)["l2"] if condition in TWINS else None
            return collect(run.vae, run.classifier, shard, condition, l2, self.precision)

        return self.store.get("evidence", key, compute)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what is done within towards a stage's wall time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.wall_seconds[stage] = self.wall_seconds.get(stage, 0.0) + time.perf_counter() - start


def _train(study: Study, kind: str, number: int) -> nn.Module:
    return study.reference_model(kind, study.seeds[number], f"run {number + 1} of {len(study.seeds)}")


def _evidence(study: Study, number: int, condition: str, start: int, stop: int) -> Tensors:
    return study.evidence_shard(study.run(number), condition, start, stop)


# Taken at import, so that they speak of the code that runs and not of what an editor has made of its file since.
_MODELS_STAGE = source_digest(_training, _models, _augment)
EVIDENCE_STAGE = source_digest(evidence, _adaptive, _attacks, _lbfgs, _models, _noise, _pgd, _precision, _reconstruct)


def profile_of(name: str, runs: int | None) -> Profile:
    """A profile by name, with another number of runs where given."""
    profile = PROFILES[name]
    if runs is None:
        return profile
    if runs < 1:
        raise ValueError(f"--runs must be 1 or more; got {runs}")
    return replace(profile, runs=runs)
