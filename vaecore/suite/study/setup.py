"""What a study looks at: images, models and protocol, as inputs of tasks. Nothing is trained before it is asked for."""

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch

from vaecore import Images, load_images, reference_configs
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.executors import exact_on_gpu
from vaecore.suite.study.live import Live
from vaecore.suite.study.model_checks import check_model
from vaecore.suite.study.models import (
    all_but,
    fits,
    given_digest,
    made,
    makes_models,
    reference,
    takes_images,
    train_made,
    train_reference,
    untrained_digest,
    user_model,
)
from vaecore.suite.study.perturbations import perturb
from vaecore.suite.study.protocol import PILOT_SEED, Protocol
from vaecore.suite.study.sets import Sets, in_random_order
from vaecore.suite.study.signals import look, thresholds
from vaecore.suite.study.tasks import Given, Task, remember
from vaecore.toolkit import (
    EMBEDDED,
    LOADED_SHAPES,
    TORCHVISION,
    Precision,
    check_precision,
    default_device,
    images_of,
    is_available,
    npz_of,
    on_black,
    probe,
)

# Training images that no model of a run learns from, kept to fit what judges confidence: that many, or this share where
# fewer. Each run keeps others, so that what varies between runs covers the choice of these images, too.
HELD_OUT, HELD_OUT_SHARE = 5_000, 0.1
PILOT_SHARE = 1 / 3  # of the training images at most, which a pilot looks at and its models do not see
PROBE = 64  # test images that a model's digest is taken of
Rows: TypeAlias = tuple[int, int]  # start and stop among the test images that are looked at


@dataclass(frozen=True)
class Dataset:
    """The data set that a study looks at: its name, why it was chosen, and the data folder; loaded when asked for.

    data: images and labels that are given in Python (`images_of`), in place of those of the name.
    """

    name: str
    why: str
    root: str | None = None
    data: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def test(self) -> Images:
        """Test images."""
        return self._split("test")

    @cached_property
    def training(self) -> Images:
        """Training images."""
        return self._split("train")

    def _split(self, split: str) -> Images:
        if self.data is not None:
            return images_of(self.data, self.name, split)
        return load_images(self.name, split, self.root)


def device_of(name: str, *, cluster: bool = False) -> torch.device:
    """The device of an option, on which results are exact and repeatable. cluster: it is that of workers elsewhere."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device must be auto, cpu or cuda; got {name!r}")
    if name == "cuda" and not cluster and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a CUDA GPU that torch can use; there is none (use --device auto)")
    device = default_device() if name == "auto" else torch.device(name)
    if device.type == "cuda":
        exact_on_gpu()
    return device


def given_dataset(data: Any, name: str, root: str | None) -> Dataset:
    """The data set of images and labels that are given in Python, as they are now.

    Its name is never that of a set that loads by name, since registered bounds are for that set alone.
    """
    chosen = f"given-{name}" if name in {*TORCHVISION, *EMBEDDED} else name
    dataset = Dataset(chosen, "given in Python", root, data)
    _ = dataset.test
    with suppress(ValueError):  # finished models need no training images; `Setup.check` raises where there must be some
        _ = dataset.training
    return dataset


def choose_dataset(name: str, root: str | None) -> Dataset:
    """Resolve "auto": MNIST where it is on disk or can be downloaded, else digits. Says if an .npz stands for a set."""
    if name != "auto":
        file = npz_of(name, root)
        return Dataset(name, "as asked" if file is None else f"as asked, from {file.name}", root)
    if is_available("mnist", root):
        return Dataset("mnist", "found on disk", root)
    if probe("mnist"):
        try:
            load_images("mnist", "test", root)
        except OSError as error:
            return Dataset("digits", f"MNIST's download failed ({error}); digits is embedded", root)
        return Dataset("mnist", "downloaded", root)
    return Dataset("digits", "MNIST is neither on disk nor to be had by network; digits is embedded", root)


@dataclass(frozen=True)
class Setup:
    """The data set, the models and the protocol of a study.

    vae, classifier: None for the reference models, else what `--vae` and `--classifier` take, or a user's object.
    first_seed: of the runs;
    PILOT_SEED for pilots. precision: of the reconstructions that are classified. ood: sets outside that are asked for,
    beside those at hand.
    """

    dataset: Dataset
    protocol: Protocol = field(default_factory=Protocol)
    device: torch.device = field(default_factory=default_device)
    vae: str | Live | None = None
    classifier: str | Live | None = None
    first_seed: int = 0
    precision: Precision = "float32"
    ood: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise now what would otherwise be raised late: unusable data, models that are not there."""
        check_precision(self.precision, self.device)
        own = " and ".join(f"--{kind}" for text, kind in self.options if text is not None)
        if own and self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"--device cuda with {own} needs a CUDA GPU here, too, to check the model; there is none")
        assert self.test.labels is not None
        _ = self.sets.sources
        if self.test.labels.min() == self.test.labels.max():
            raise ValueError(f"the images of {self.test.name} must have two labels or more; the test images have one")
        if "classifier" in self.trained:
            self._check_training_labels()
        for text, kind in self.options:
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

    # Images.

    @cached_property
    def train(self) -> Images:
        """Training images; a pilot's without those that it looks at. Raises ValueError where there are none."""
        whole = self.dataset.training
        return whole.take(all_but(self._pilot_images, len(whole))) if self.pilot else whole

    @cached_property
    def train_or_none(self) -> Images | None:
        """Training images; None where finished models came without any."""
        try:
            return self.train
        except ValueError:
            if None in (self.vae, self.classifier):
                raise
            return None

    def held_out(self, seed: int) -> Images:
        """Training images that the models of a run have not seen."""
        return self.train.take(self.held_places(seed).tensors["places"])

    def seen(self, seed: int) -> Images:
        """Training images that the models of a run learn from."""
        return self.train.take(all_but(self.held_places(seed).tensors["places"], len(self.train)))

    @cached_property
    def _pilot_images(self) -> torch.Tensor:
        """Places of the training images that a pilot looks at: as many as there are test images, or PILOT_SHARE."""
        count = len(self.dataset.training)
        return in_random_order("pilot-images", count)[: min(len(self.test_images), int(PILOT_SHARE * count))]

    @cached_property
    def test_images(self) -> Images:
        """The data set's test images, with labels."""
        test = self.dataset.test
        if test.labels is None:
            raise ValueError(f"claims need labels: {self.dataset.name} must have `labels` beside `images`")
        return test

    @cached_property
    def test(self) -> Images:
        """Labelled images that the study looks at: test images; in a pilot, training images that its models don't see.

        So nothing that sets a bound has seen a test image.
        """
        if not self.pilot:
            return self.test_images
        images = self.dataset.training.take(self._pilot_images)
        if images.labels is None:
            raise ValueError(f"a pilot looks at training images: those of {self.dataset.name} must have `labels`")
        return images

    @cached_property
    def indices(self) -> torch.Tensor:
        """Indices of the test images looked at, in one random order for all studies.

        Conditions of fewer images take the first ones.
        """
        profile = self.protocol.profile
        return in_random_order("test-images", len(self.test))[: max(profile.images, profile.clean_images)]

    @cached_property
    def training(self) -> Given | None:
        """The training images as an input; None where finished models came without any."""
        return None if self.train_or_none is None else given(self.train_or_none)

    @cached_property
    def sets(self) -> Sets:
        """The sets outside."""
        most = self.protocol.profile.images
        return Sets(self.test, self.indices[:most], most, self.dataset.root, self.ood, pilot=self.pilot)

    def held(self, seed: int) -> Given:
        """The training images that are held out from a run's models, as an input."""
        if seed not in self._held:
            self._held[seed] = given(self.held_out(seed), self.held_places(seed).tensors["places"])
        return self._held[seed]

    @cached_property
    def _held(self) -> dict[int, Given]:
        return {}

    def held_places(self, seed: int) -> Given:
        """Places of the training images that are held out from a run's models, as an input."""
        if seed not in self._places:
            count = len(self.train)
            places = in_random_order("held-out", count, seed)[: min(HELD_OUT, int(HELD_OUT_SHARE * count))]
            self._places[seed] = Given({"places": places})
        return self._places[seed]

    @cached_property
    def _places(self) -> dict[int, Given]:
        return {}

    @cached_property
    def whole_test(self) -> Given:
        """All test images as an input."""
        return given(self.test)

    def count(self, condition: Condition) -> int:
        """Test images looked at under a condition."""
        return min(self.protocol.images(condition), len(self.test))

    def shards(self, count: int, size: int | None = None) -> list[Rows]:
        """Rows of each shard of so many images."""
        size = size or self.protocol.shard
        return [(start, min(start + size, count)) for start in range(0, count, size)]

    def shard(self, rows: Rows) -> Given:
        """Some of the test images that are looked at, as an input: pixels, labels, indices."""
        if rows not in self._shards:
            indices = self.indices[slice(*rows)]
            self._shards[rows] = given(self.test.take(indices), indices)
        return self._shards[rows]

    @cached_property
    def _shards(self) -> dict[Rows, Given]:
        return {}

    @cached_property
    def background(self) -> bool:
        """Whether the images stand on black, which a threshold and the share of black pixels take for granted."""
        return on_black(self.test_images if self.train_or_none is None else self.dataset.training)

    # Models.

    @property
    def options(self) -> tuple[tuple[str | Live | None, str], tuple[str | Live | None, str]]:
        """What `--vae` and `--classifier` say, each with its kind; None for the reference model."""
        return (self.vae, "vae"), (self.classifier, "classifier")

    @property
    def in_python(self) -> bool:
        """Whether images or a model are given as objects, which no command line names."""
        return self.dataset.data is not None or any(isinstance(text, Live) for text, _ in self.options)

    @cached_property
    def finished(self) -> tuple[str, ...]:
        """The models, of "vae" and "classifier", that are the user's finished ones: one and the same in all runs."""
        return tuple(kind for text, kind in self.options if text is not None and not makes_models(text, kind))

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The models, of "vae" and "classifier", that the study trains: the reference, and a maker's with a `fit`."""
        return tuple(
            kind
            for text, kind in self.options
            if text is None or (kind not in self.finished and fits(self._first_made(kind)))
        )

    @property
    def train_use(self) -> str:
        """What training images are for, or why there are none, in words; of models that came trained, it says so."""
        if self.train_or_none is None:
            return "none at hand, as both models came finished"
        learn = [kind for text, kind in self.options if kind in self.trained or (text and takes_images(text, kind))]
        names = {kind: {"vae": "the VAE"}.get(kind, f"the {kind}") for _, kind in self.options}
        purpose = [f"train {' and '.join(names[kind] for kind in learn)}"] if learn else []
        came = [names[kind] for kind in names if kind not in learn]
        note = f"; {' and '.join(came)} came trained, on images that are not known here" if came else ""
        return f"{', '.join([*purpose, 'fit scores and alarms'])}{note}"

    @property
    def fixed(self) -> bool:
        """Whether both models are the user's finished ones, so that there is one run and nothing to vary."""
        return len(self.finished) == 2

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
        runs = 1 if self.fixed else self.protocol.profile.runs
        return list(range(self.first_seed, self.first_seed + runs))

    @property
    def pilot(self) -> bool:
        """Whether the runs' seeds are those that claims never use."""
        return self.first_seed >= PILOT_SEED

    def weights(self, kind: str, number: int) -> Task | None:
        """The training of a model ("vae", "classifier", "autoencoder") of a run, counted from 0; None where it is not
        trained here."""
        seed = self.seeds[number]
        text = {kind: text for text, kind in self.options}.get(kind)
        title = f"training the {kind}"
        if text is None:
            assert self.training is not None
            configs = reference_configs(self.train)
            arguments: dict[str, Any] = {"kind": kind, "config": configs[kind == "classifier"], "seed": seed}
            function: Any = train_reference
        elif kind in self.trained:
            arguments = _by_name(text) | {"kind": kind, "seed": seed, "made": self._digest(kind, seed)}
            function = train_made
        else:
            return None
        inputs = _by_object(text) | {"train": self.training, "held_out": self.held_places(seed)}
        return Task(function, arguments | {"device": str(self.device)}, inputs, "models", title)

    def model(self, kind: str, number: int) -> Task:
        """A model ("vae", "classifier", "autoencoder") of a run, counted from 0, as an input."""
        if (kind, number) not in self._models:
            self._models[kind, number] = self._model(kind, number)
        return self._models[kind, number]

    def _model(self, kind: str, number: int) -> Task:
        text = {kind: text for text, kind in self.options}.get(kind)
        weights, device = self.weights(kind, number), str(self.device)
        if text is None:
            config = reference_configs(self.train)[kind == "classifier"]
            arguments: dict[str, Any] = {"kind": kind, "config": config, "shape": self.train.shape}
            arguments |= {"classes": self.train.classes or 0, "device": device}
            return Task(reference, arguments, {"weights": weights})
        seed = self.first_seed if kind in self.finished else self.seeds[number]
        arguments = _by_name(text) | {"kind": kind, "seed": seed, "device": device, "made": self._digest(kind, seed)}
        inputs = _by_object(text) | {
            "train": self.training,
            "held_out": None if self.training is None else self.held_places(seed),
            "probe": self.shard((0, min(PROBE, len(self.test)))),
            "weights": weights,
        }
        task = Task(made, arguments, inputs)
        if weights is None:
            remember(task, self._given[kind, seed])  # a maker may take long, as it trains
        return task

    @cached_property
    def _models(self) -> dict[tuple[str, int], Task]:
        return {}

    def _digest(self, kind: str, seed: int) -> str:
        """Digest of what a user's option gives for a seed, before it is trained."""
        if (kind, seed) not in self._digests:
            text = self.vae if kind == "vae" else self.classifier
            assert text is not None
            model = self._first_made(kind) if seed == self.first_seed else self._made(kind, seed)
            if kind in self.trained:
                self._digests[kind, seed] = untrained_digest(model, text, kind)
            else:
                pixels = self.shard((0, min(PROBE, len(self.test)))).tensors["pixels"]
                self._digests[kind, seed] = given_digest(model, text, kind, pixels.to(self.device))
                self._given[kind, seed] = model
        return self._digests[kind, seed]

    @cached_property
    def _given(self) -> dict[tuple[str, int], Any]:
        """Models that are not trained here, by kind and seed."""
        return {}

    @cached_property
    def _digests(self) -> dict[tuple[str, int], str]:
        return {}

    def _made(self, kind: str, seed: int) -> Any:
        text = self.vae if kind == "vae" else self.classifier
        assert text is not None
        return user_model(text, kind, seed, self.device, lambda: self.seen(seed))

    def _first_made(self, kind: str) -> Any:
        """What the user's option gives for the first run, before it is trained."""
        if kind not in self._made_first:
            self._made_first[kind] = self._made(kind, self.first_seed)
        return self._made_first[kind]

    @cached_property
    def _made_first(self) -> dict[str, Any]:
        return {}

    # What models say of images.

    def look(self, number: int, role: str, images: Given, attack: Task | None, *, searched: int = 0) -> Task:
        """What a run's models, counted from 0, say of images, or of what an attack has made of them; see `signals`.

        searched: of how many the search in latent space is asked.
        """
        arguments = {"seed": self.seeds[number], "role": role, "draws": self.protocol.draws, "device": str(self.device)}
        arguments |= {"background": self.background, "searched": searched}
        models = {kind: self.model(kind, number) for kind in ("vae", "classifier")}
        inputs = {"shard": images, "attack": attack, **models}
        return Task(look, arguments, inputs, "decisions", f"looking, {role} images")

    def look_at_held_out(self, number: int) -> Task:
        """What a run's models, counted from 0, say of the training images that they have not seen."""
        held = self.held(self.seeds[number])
        return self.look(number, "held-out", held, None, searched=self.protocol.profile.lbfgs_images)

    def thresholds(self, number: int) -> Task:
        """The thresholds of a run's alarms, by images held out, as an input."""
        return Task(thresholds, {}, {"held": self.look_at_held_out(number)})

    # Conditions.

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """The protocol's, without attackers that avoid alarms where there are no images held out to set alarms by."""
        every = self.protocol.conditions
        return tuple(one for one in every if self.training is not None or "alarms" not in one.kind.knows)

    def attack(self, condition: Condition, number: int, rows: Rows) -> Task:
        """Test images under a condition, as a run (counted from 0) sees them, as an input; see `perturb`."""
        key = condition, number, rows
        if key not in self._attacks:
            self._attacks[key] = self._attack(*key)
        return self._attacks[key]

    @cached_property
    def evidence(self) -> dict[tuple[str, Condition], list[Task]]:
        """Tasks that `Evidence.tasks` has made."""
        return {}

    @cached_property
    def _attacks(self) -> dict[tuple[Condition, int, Rows], Task]:
        return {}

    def _attack(self, condition: Condition, number: int, rows: Rows) -> Task:
        kind, protocol = condition.kind, self.protocol
        arguments: dict[str, Any] = {
            "kind": kind.name,
            "epsilon": protocol.size(condition),
            "settings": dict(kind.settings),
            "seed": self.seeds[number],
            "eot_draws": protocol.eot_draws,
            "device": str(self.device),
        }
        inputs: dict[str, Any] = {"shard": self.shard(rows)}
        inputs |= {model: self.model(model, number) for model in kind.knows if model != "alarms"}
        if "alarms" in kind.knows:
            arguments["draws"] = protocol.draws
            inputs["thresholds"] = self.thresholds(number)
        if kind.twin_of is not None:
            inputs["twin"] = self.attack(kind.twin_of, number, rows)
        return Task(perturb, arguments, inputs, "attacks" if kind.kept else "", f"attack, {protocol.name(condition)}")


def _by_name(text: str | Live | None) -> dict[str, Any]:
    """What names a model, as an argument of tasks."""
    return {"text": text} if isinstance(text, str) else {}


def _by_object(text: str | Live | None) -> dict[str, Any]:
    """A model that is given as an object, as an input of tasks."""
    return {"text": text.task} if isinstance(text, Live) else {}


def given(images: Images, indices: torch.Tensor | None = None) -> Given:
    """Images as an input: pixels, labels where they have any, and the index of each where it matters."""
    tensors = {"pixels": images.pixels}
    tensors |= {} if images.labels is None else {"labels": images.labels}
    if indices is None:
        named = (images.name, images.split) if images.name in LOADED_SHAPES else None
        return Given(tensors, images.digest, named)
    return Given(tensors | {"indices": indices})
