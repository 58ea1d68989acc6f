"""A study: one data set, the models of each run, and the evidence they give, each made once and kept in the store."""

import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from claims import evidence
from claims.evidence import FEW_IMAGES, GAUSSIAN, LBFGS, Shard, Table, collect
from vaecore import _attacks, _augment, _lbfgs, _models, _noise, _reconstruct, _training
from vaecore._images import Images, is_available, load_images, probe
from vaecore._models import Autoencoder, Classifier, load_classifier, load_vae
from vaecore._noise import seed_for, words
from vaecore._store import Store, Tensors, digest
from vaecore._training import Progress, default_device, fit_classifier, fit_vae, reference_configs

SHARD = 500  # images; what a kill costs at most
PILOT_SEED = 1000  # seeds from here on set bounds and are never used by the claims


@dataclass(frozen=True)
class Profile:
    """How much a study looks at: training runs, test images, and images for L-BFGS, which is dear."""

    name: str
    runs: int
    images: int
    lbfgs_images: int


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("smoke", 1, 200, 100),
        Profile("standard", 5, 2_000, 500),
        Profile("full", 10, 10_000, 1_000),
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
        return Dataset("mnist", "not on disk, can be downloaded")
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
    meter: Meter = silent
    wall_seconds: dict[str, float] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)  # conditions asked for, since it was last cleared

    def check(self) -> None:
        """Raise now what would otherwise be raised late: unusable data, models that are not there."""
        _ = self.test
        for text, kind in self.given:
            if text is not None and not _makes_models(text, kind):
                _user_model(text, kind, self.first_seed, self.device)
        if None in (self.vae, self.classifier):
            _ = self.train

    @cached_property
    def train(self) -> Images:
        """Training images."""
        return load_images(self.dataset.name, "train", self.root)

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
        makers = [text is None or _makes_models(text, kind) for text, kind in self.given]
        return not any(makers)

    @cached_property
    def seeds(self) -> list[int]:
        """Training seed of each run."""
        runs = 1 if self.fixed else self.profile.runs
        return list(range(self.first_seed, self.first_seed + runs))

    @property
    def runs(self) -> list[Run]:
        """The models of all runs."""
        return [self.run(number) for number in range(len(self.seeds))]

    def run(self, number: int) -> Run:
        """The models of a run, counted from 0: trained, read from the store, or the user's."""
        if number not in self._runs:
            seed, title = self.seeds[number], f"run {number + 1} of {len(self.seeds)}"
            vae = self._model("vae", seed, title)
            classifier = self._model("classifier", seed, title)
            self._runs[number] = Run(seed, vae, classifier, _digest_of(vae), _digest_of(classifier))
        return self._runs[number]

    def count(self, condition: str) -> int:
        """Test images looked at under a condition."""
        limit = self.profile.lbfgs_images if condition in FEW_IMAGES else self.profile.images
        return min(limit, len(self.test))

    def table(self, condition: str, images: int | None = None) -> Table:
        """Evidence of all runs under a condition; the first `images` of them where given, to pair with fewer."""
        self.looked_at.add(condition)
        if condition not in self._tables:
            self._tables[condition] = self._collect(condition)
        table = self._tables[condition]
        return table if images is None else table.take(slice(images))

    def paired(self, *conditions: str) -> list[Table]:
        """Evidence under several conditions for the images they share.

        Images on which L-BFGS failed in a run, where it is among them, are left out: a failure is no adversarial image.
        """
        shared = min(self.count(condition) for condition in conditions)
        tables = [self.table(condition, shared) for condition in conditions]
        if LBFGS in conditions or GAUSSIAN in conditions:
            found = np.flatnonzero(self.table(LBFGS, shared)["success"].all(axis=0))
            tables = [table.take(found) for table in tables]
        return tables

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
            return _user_model(text, kind, seed, self.device)
        with self._timed("training"):
            return self._reference_model(kind, seed, title)

    def _reference_model(self, kind: str, seed: int, title: str) -> nn.Module:
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
        runs = self.runs
        count = self.count(condition)
        with self._timed("evidence"), self.meter(f"evidence: {condition}") as advance:
            parts: list[Tensors] = []
            for number, run in enumerate(runs):
                shards = []
                for start in range(0, count, SHARD):
                    shards.append(self._shard(run, condition, start, min(start + SHARD, count)))
                    advance(number * count + min(start + SHARD, count), len(runs) * count)
                parts.append({name: torch.cat([shard[name] for shard in shards]) for name in shards[0]})
        return Table.of(parts)

    def _shard(self, run: Run, condition: str, start: int, stop: int) -> Tensors:
        indices = self.indices[start:stop]
        assert self.test.labels is not None
        pixels, labels = self.test.pixels[indices], self.test.labels[indices]
        models = (run.vae_digest, run.classifier_digest)
        key = digest(condition, run.seed, *models, pixels, labels, indices, _EVIDENCE_STAGE, self.device.type)

        def compute() -> Tensors:
            place = self.device
            shard = Shard(pixels.to(place), labels.to(place), indices.to(place), run.seed)
            l2 = self._shard(run, LBFGS, start, stop)["l2"] if condition == GAUSSIAN else None
            return collect(run.vae, run.classifier, shard, condition, l2)

        return self.store.get("evidence", key, compute)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.wall_seconds[stage] = self.wall_seconds.get(stage, 0.0) + time.perf_counter() - start


def _stage(*modules: ModuleType) -> str:
    """Digest of what a stage's results depend on beside its input: the source of its modules, and torch."""
    return digest(*(Path(str(module.__file__)) for module in modules), torch.__version__.partition("+")[0])


# Taken at import, so that they speak of the code that runs and not of what an editor has made of its file since.
_MODELS_STAGE = _stage(_training, _models, _augment)
_EVIDENCE_STAGE = _stage(evidence, _attacks, _lbfgs, _models, _noise, _reconstruct)


def _digest_of(model: Any) -> str:
    """Digest of a model: its weights, where it is a torch module, and the source of its class."""
    parts: list[object] = [f"{type(model).__module__}.{type(model).__qualname__}"]
    source = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    if source is not None:
        parts.append(Path(source))
    if isinstance(model, nn.Module):
        for name, value in sorted(model.state_dict().items()):
            parts += [name, value]
    return digest(*parts)


def _makes_models(text: str, kind: str) -> bool:
    """Whether a `--vae` or `--classifier` names a maker (seed -> module) and not one finished model."""
    if ":" in text:
        return not isinstance(_attribute(text, kind), nn.Module)
    if not Path(text).is_file():
        raise ValueError(f"--{kind} must be package.module:attribute or a file that exists; got {text}")
    return False


def _user_model(text: str, kind: str, seed: int, device: torch.device) -> Any:
    """The model that `--vae` or `--classifier` names: `package.module:attribute`, or a file saved by vaecore."""
    if ":" not in text:
        loaded = load_vae(text) if kind == "vae" else load_classifier(text)
        return loaded.requires_grad_(requires_grad=False).to(device)
    found = _attribute(text, kind)
    model = found if isinstance(found, nn.Module) else found(seed)
    wanted = ("encode", "decode") if kind == "vae" else ("__call__",)
    missing = [name for name in wanted if not callable(getattr(model, name, None))]
    if missing:
        raise ValueError(
            f"--{kind} {text} must give a model with {' and '.join(wanted)}; it lacks {', '.join(missing)}"
        )
    return model.requires_grad_(False).to(device).eval() if isinstance(model, nn.Module) else model


def _attribute(text: str, kind: str) -> Any:
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # a user's module lies beside the command, as for `python -m`
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--{kind} must be package.module:attribute; {text} can't be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"--{kind} {text} must be a module or a callable seed -> module; got {type(found).__name__}")
    return found


def profile_of(name: str, runs: int | None) -> Profile:
    """A profile by name, with another number of runs where given."""
    profile = PROFILES[name]
    if runs is None:
        return profile
    if runs < 1:
        raise ValueError(f"--runs must be 1 or more; got {runs}")
    return replace(profile, runs=runs)
