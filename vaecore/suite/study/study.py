"""A study: one data set, the models of each run, and the evidence they give, each made once and kept in the store."""

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vaecore import _noise, _precision
from vaecore._noise import seed_for, words
from vaecore._precision import Precision, check_precision
from vaecore._store import NotKeptError, Store, Tensors, digest, source_digest
from vaecore.attacks import _attack as _attacks
from vaecore.attacks import _detector as _adaptive
from vaecore.attacks import _lbfgs, _pgd
from vaecore.attacks._attack import Attack
from vaecore.data._images import Images, is_available, load_images, probe
from vaecore.models import _augment, _training
from vaecore.models import _networks as _models
from vaecore.models._networks import Autoencoder, Classifier
from vaecore.models._training import Progress, default_device, fit_classifier, fit_vae, reference_configs
from vaecore.reconstruction import _reconstruct
from vaecore.suite.study import draws as evidence
from vaecore.suite.study import user_models, workers
from vaecore.suite.study.cleaning import Cleaning
from vaecore.suite.study.decisions import Decisions
from vaecore.suite.study.draws import (
    ADAPTIVE,
    CLEAN,
    DRAWS,
    LBFGS,
    MINIMAL,
    SHOWN,
    TWINS,
    Shard,
    Table,
    collect,
    perturb,
)
from vaecore.suite.study.model_checks import check_classes, check_model
from vaecore.suite.study.outside import Outside
from vaecore.suite.study.user_models import fit, fits, makes_models, model_digest, untrained_digest, user_model

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


@dataclass(frozen=True)
class Told:
    """What a process found before it asked others for help: they must find the same. Digests; of models run by run."""

    test: str
    models: dict[int, tuple[str, str]]


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
    told: Told | None = None
    meter: Meter = silent
    wall_seconds: dict[str, float] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)  # conditions asked for, and
    kept: float = 1.0  # the smallest share of images that `paired` left, since they were last reset

    def check(self) -> None:
        """Raise now what would otherwise be raised late: unusable data, models that are not there."""
        check_precision(self.precision, self.device)
        assert self.test.labels is not None
        _ = self.outside.sources
        if self.test.labels.min() == self.test.labels.max():
            raise ValueError(f"the images of {self.test.name} must have two labels or more; the test images have one")
        if "classifier" in self.trained:
            self._check_training_labels()
        for text, kind in self.given:
            if text is not None:
                check_model(self._first_made(kind), text, kind, self.test, self.device)
        if "vae" in self.trained:
            _ = self.train

    def _check_training_labels(self) -> None:
        train, classes = self.train, self.test.classes or 0
        if train.labels is None:
            raise ValueError(f"a classifier needs labels; the training images of {train.name} have none")
        if classes > (train.classes or 0):
            raise ValueError(
                f"the test labels of {self.test.name} must be among the training labels, 0 to"
                f" {(train.classes or 0) - 1}; got up to {classes - 1}"
            )
        missing = (torch.bincount(train.labels) == 0).nonzero().flatten().tolist()
        if missing:
            raise ValueError(
                f"the training labels of {train.name} must be numbered from 0 without gaps, a few images each; there is"
                f" none of class {', '.join(map(str, missing[:5]))}{' and others' if len(missing) > 5 else ''}"
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
        if self.told is not None and test.digest != self.told.test:
            raise ValueError(
                f"{self.dataset.name} must give the same images each time, as processes that share the work each ask"
                " for them; it gave others (seed its random numbers, or use --workers 1)"
            )
        return test

    @cached_property
    def indices(self) -> torch.Tensor:
        """Indices of the test images looked at, in one random order for all studies; L-BFGS takes the first."""
        order = words(seed_for("test-images", 0), torch.arange(len(self.test)), draws=1, size=1).flatten().argsort()
        return order[: self.profile.images]

    @cached_property
    def fixed(self) -> bool:
        """Whether both models are the user's finished ones, so that there is one run and nothing to vary."""
        return len(self.finished) == 2

    @cached_property
    def finished(self) -> tuple[str, ...]:
        """The models, of "vae" and "classifier", that are the user's finished ones: one and the same in all runs."""
        return tuple(kind for text, kind in self.given if text is not None and not makes_models(text, kind))

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The models, of "vae" and "classifier", that the study trains: the reference, and a maker's with a `fit`."""
        return tuple(
            kind
            for text, kind in self.given
            if text is None or (kind not in self.finished and fits(self._first_made(kind)))
        )

    @property
    def covers(self) -> str:
        """What the study's intervals cover, in words."""
        if self.fixed:
            return "test images only, as both models are finished ones"
        if len(self.seeds) == 1:
            return "test images only, as there is one run"
        if self.finished:
            varying = "classifier" if self.finished == ("vae",) else "VAE"
            same = "VAE" if varying == "classifier" else "classifier"
            return f"training runs of the {varying} and test images, for this one {same}"
        return "training runs and test images"

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
            kinds = [*reversed(self.trained)]  # the longest task first
            calls = [(kind, number) for kind in kinds for number in range(len(self.seeds))]
            with self.timed("training"), self.meter("training") as advance:
                self.each(Study.trained_model, calls, advance)
        return [self.run(number) for number in range(len(self.seeds))]

    def run(self, number: int) -> Run:
        """The models of a run, counted from 0: trained, read from the store, or the user's."""
        if number not in self._runs:
            seed, title = self.seeds[number], self._title(number)
            vae = self.model("vae", seed, title)
            classifier = self.model("classifier", seed, title)
            probe = self.test.pixels[:64].to(self.device)
            digests = model_digest(vae, "vae", probe), model_digest(classifier, "classifier", probe)
            check_classes(classifier, self.test, self.device)
            if self.told is not None and digests != self.told.models.get(number, digests):
                raise ValueError(
                    f"a maker must give the same model each time it gets a seed, as processes that share the work each"
                    f" call it; for {seed} it gave another (one that trains: leave that to a `fit` of its module, whose"
                    " result is kept, or use --workers 1)"
                )
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
        return min(max(2, self.profile.adaptive_images // 4), len(self.test))

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

    def each_image(
        self, function: Callable[..., torch.Tensor], images: int | None = None, **settings: object
    ) -> NDArray[np.float64]:
        """A number of one's own for each run and image, (runs, images), kept in the store; rows as those of `table`.

        function: called as function(run, shard, **settings) with a `Run` and a `Shard` of at most SHARD images, gives a
        tensor (n,). It must be a module's own function: it is known by its name, by the file that it stands in, and by
        the settings (numbers, texts), so that a change to any of them computes it again; a change to what it imports
        does not. images: the first so many, by default those that clean images are looked at on.
        """
        name, file = function.__qualname__, inspect.getsourcefile(function)
        if file is None or not name.isidentifier():
            raise ValueError(
                f"the function must be a module's own, to be known again; got {name} (what it would take from around it"
                " are settings: each_image(function, sigma=0.3))"
            )
        count = self.count(CLEAN) if images is None else images
        if not 1 <= count <= len(self.indices):
            raise ValueError(f"images must be from 1 to {len(self.indices)}, those that are looked at; got {count}")
        known = digest("own", name, Path(file), settings, EVIDENCE_STAGE)
        calls = [(run, *rows) for run in self.runs for rows in self.shards(count)]
        found = []
        with self.timed("evidence"), self.meter(name) as advance:
            for run, start, stop in calls:
                indices = self.indices[start:stop]
                found.append(self._own_shard(run, indices, known, partial(function, run, **settings)))
                advance(len(found), len(calls))
        return np.asarray(torch.cat(found).view(-1, count).double().numpy())

    def _own_shard(self, run: Run, indices: torch.Tensor, known: str, function: Callable[[Shard], Any]) -> torch.Tensor:
        shard = self.shard(run, indices)
        key = digest(known, run.vae_digest, run.classifier_digest, *shard.known, self.device.type)

        def compute() -> Tensors:
            found = function(shard.to(self.device))
            if not isinstance(found, torch.Tensor) or found.shape != indices.shape:
                got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
                raise ValueError(f"each image must get one number, in a tensor ({len(indices)},); got {got}")
            return {"values": found.detach().cpu()}

        return self.store.get("evidence", key, compute)["values"]

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
        models = {number: (run.vae_digest, run.classifier_digest) for number, run in self._runs.items()}
        told = Told(self.test.digest, models)
        return replace(self, meter=silent, wall_seconds={}, looked_at=set(), kept=1.0, workers=1, told=told)

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
    def _timed(self) -> set[str]:
        """The stages that are being timed."""
        return set()

    @cached_property
    def _tables(self) -> dict[str, Table]:
        return {}

    @property
    def given(self) -> tuple[tuple[str | None, str], tuple[str | None, str]]:
        """What `--vae` and `--classifier` say, each with its kind; None for the reference model."""
        return (self.vae, "vae"), (self.classifier, "classifier")

    def trained_model(self, kind: str, number: int) -> nn.Module:
        """The VAE or classifier of a run, counted from 0, of those that the study trains."""
        model: nn.Module = self.model(kind, self.seeds[number], self._title(number))
        return model

    def _title(self, number: int) -> str:
        return f"run {number + 1} of {len(self.seeds)}"

    def model(self, kind: str, seed: int, title: str) -> Any:
        """The VAE or classifier of a seed, as it is used: trained, from the store, or as the user gives it."""
        text = self._text(kind)
        if text is None:
            with self.timed("training"):
                return self.reference_model(kind, seed, title)
        model = self._unused.pop((kind, seed), None)
        if model is None:
            model = user_model(text, kind, seed, self.device, lambda: self.train)
        if kind not in self.trained:
            return model
        with self.timed("training"):
            return self._fitted(model, text, kind, seed, title)

    def _text(self, kind: str) -> str | None:
        return self.vae if kind == "vae" else self.classifier

    @cached_property
    def _unused(self) -> dict[tuple[str, int], Any]:
        """Models that were made to be looked at."""
        return {}

    def _first_made(self, kind: str) -> Any:
        """What the user's option gives for the first run, before it is trained."""
        text, seed = self._text(kind), self.first_seed
        assert text is not None
        if (kind, seed) not in self._unused:
            self._unused[kind, seed] = user_model(text, kind, seed, self.device, lambda: self.train)
        return self._unused[kind, seed]

    def _fitted(self, model: nn.Module, text: str, kind: str, seed: int, title: str) -> nn.Module:
        """A maker's model of a seed, trained or with the weights that the store has."""
        made = untrained_digest(model, text, kind)
        key = digest("made", made, seed, self.train.digest, _MADE_STAGE, self.device.type)

        def train() -> Tensors:
            with self.meter(f"training the {kind} of {title}"):
                return fit(model, kind, seed, self.train, self.device)

        model.load_state_dict(self.store.get("models", key, train))
        return model.requires_grad_(requires_grad=False).eval()

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
        model: nn.Module
        if kind == "vae":
            model = _models.VAE(vae_config, self.train.shape)
        else:
            model = Classifier(classifier_config, self.train.shape, self.train.classes or 0)
        model.load_state_dict(weights)
        return model.requires_grad_(requires_grad=False).to(self.device).eval()

    def _collect(self, condition: str) -> Table:
        runs, count = self.runs, self.count(condition)
        with self.timed("evidence"), self.meter(f"evidence: {condition}") as advance:
            shards = self.shards(count)
            calls = [(number, condition, *rows) for number in range(len(runs)) for rows in shards]
            found = self.each(evidence_of, calls, advance)
        return Table.of_shards(found, len(shards))

    def shard(self, run: Run, indices: torch.Tensor) -> Shard:
        """The test images of some indices, as a run sees them."""
        assert self.test.labels is not None
        return Shard(self.test.pixels[indices], self.test.labels[indices], indices, run.seed)

    @staticmethod
    def shards(count: int) -> list[tuple[int, int]]:
        """Where each shard of so many images starts and stops."""
        return [(start, min(start + SHARD, count)) for start in range(0, count, SHARD)]

    def evidence_shard(self, run: Run, condition: str, start: int, stop: int) -> Tensors:
        """Evidence of a run under a condition on some of the images, as `collect` gives it."""
        shard = self.shard(run, self.indices[start:stop])
        known = condition, run.vae_digest, run.classifier_digest, *shard.known
        key = digest(*known, EVIDENCE_STAGE, self.device.type, self.precision)

        def compute() -> Tensors:
            l2 = self.evidence_shard(run, TWINS[condition], start, stop)["l2"] if condition in TWINS else None
            attack = self.lbfgs(run, start, stop) if condition == LBFGS else None
            there = shard.to(self.device)
            return collect(run.vae, run.classifier, there, condition, l2, self.precision, attack)

        return self.store.get("evidence", key, compute)

    def lbfgs(self, run: Run, start: int, stop: int) -> Attack:
        """The L-BFGS attack of a run on some of the images, which several families look at."""
        shard, device = self.shard(run, self.indices[start:stop]), self.device
        key = digest(f"attack/{LBFGS}", run.classifier_digest, *shard.known, EVIDENCE_STAGE, device.type)

        def compute() -> Tensors:
            attack = perturb(run.vae, run.classifier, shard.to(device), LBFGS)
            return {name: value.cpu() for name, value in vars(attack).items()}

        return Attack(**{name: value.to(device) for name, value in self.store.get("evidence", key, compute).items()})

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count what is done within towards a stage's wall time, and once where it is timed within already."""
        if stage in self._timed:
            yield
            return
        start = time.perf_counter()
        self._timed.add(stage)
        try:
            yield
        finally:
            self._timed.remove(stage)
            self.wall_seconds[stage] = self.wall_seconds.get(stage, 0.0) + time.perf_counter() - start


def evidence_of(study: Study, number: int, condition: str, start: int, stop: int) -> Tensors:
    """What `Study.evidence_shard` gives of a run, counted from 0."""
    return study.evidence_shard(study.run(number), condition, start, stop)


# Taken at import, so that they speak of the code that runs and not of what an editor has made of its file since.
_MODELS_STAGE = source_digest(_training, _models, _augment)
_MADE_STAGE = source_digest(user_models, _training)
EVIDENCE_STAGE = source_digest(evidence, _adaptive, _attacks, _lbfgs, _models, _noise, _pgd, _precision, _reconstruct)


def profile_of(name: str, runs: int | None) -> Profile:
    """A profile by name, with another number of runs where given."""
    profile = PROFILES[name]
    if runs is None:
        return profile
    if runs < 1:
        raise ValueError(f"--runs must be 1 or more; got {runs}")
    return replace(profile, runs=runs)
