"""Images from outside the data set: which sets there are, and their scores, each made once and kept in the store."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from vaecore import _noise
from vaecore._check import describe_shape
from vaecore._noise import seed_for, words
from vaecore._store import Tensors, digest, source_digest
from vaecore.data import _outside
from vaecore.data._images import TORCHVISION, Images, data_root, is_available, probe
from vaecore.data._outside import LOADED_SHAPE, OUTSIDE_MADE, PATCHES_ALONG_A_SIDE, is_made, outside, outside_name
from vaecore.models import _networks as _models
from vaecore.reconstruction import _likelihood, _reconstruct
from vaecore.reconstruction._decode import posterior
from vaecore.scoring import _features, _scores
from vaecore.scoring import _learned as _fitted
from vaecore.scoring._scores import FittedScores, fit_scores, scores
from vaecore.suite.study.draws import Table
from vaecore.suite.study.user_models import one_thread

if TYPE_CHECKING:
    from vaecore.suite.study.study import Run, Study

_LEARNS = "training images"  # among the needs of a score
_ALIKE = 1e-3
INSIDE = "inside"  # the test images themselves
_PREFIX = "outside/"  # of sets among the conditions that a study has looked at
SHARD = 2_000  # images; what a kill costs at most
SEED = 0  # of the sets that are made: the same images for all runs and studies


@dataclass
class Outside:
    """The sets outside that a study looks at, and the scores that each run gives to their images.

    asked: what `--ood` names. A set goes by the name that `vaecore.outside` gives it.
    """

    study: "Study"
    asked: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)  # sets at hand that can't be compared, and why
    _found: dict[str, str | None] = field(default_factory=dict)
    _tables: dict[str, Table] = field(default_factory=dict)
    _judges: dict[int, FittedScores] = field(default_factory=dict)
    _images: dict[str, tuple[Images, torch.Tensor]] = field(default_factory=dict)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Each set's name, and what `vaecore.outside` takes for it: made sets, those at hand, those asked for.

        At hand are letters, torchvision's sets that are on disk, and the .npz files in the data folder's `ood`; those
        that do not fit the images are `left_out`. Raises ValueError where what is asked for does not fit, or two sets
        go by one name.
        """
        made, shape = [*OUTSIDE_MADE], self.study.test.shape
        if any(side % PATCHES_ALONG_A_SIDE for side in shape[1:]):
            made.remove("shuffled-patches")
            self.left_out["shuffled-patches"] = f"{PATCHES_ALONG_A_SIDE} does not divide {shape[1]}x{shape[2]}"
        at_hand = sorted(map(str, (data_root(self.study.root) / "ood").glob("*.npz")))
        loaded = [*(name for name in TORCHVISION if is_available(name, self.study.root)), "letters"]
        if self._fits_loaded:
            at_hand = [*loaded, *at_hand]
        else:
            why = f"{describe_shape(LOADED_SHAPE)}, where {self.study.test.name} is {describe_shape(shape)}"
            self.left_out[", ".join(loaded)] = why
        found = dict(zip(made, made, strict=True))
        for source in at_hand:
            name = outside_name(source)
            if name == self.study.test.name:
                continue
            try:
                self._load(source)
            except (ValueError, OSError) as error:
                self.left_out[name] = str(error)
            else:
                found[name] = source
        asked: dict[str, str] = {}
        for source in self.asked:
            name = outside_name(source)
            if asked.setdefault(name, source) != source:
                raise ValueError(f"sets outside must have different names; got two {name} (rename one of the files)")
            # What is made is made of one image here, to see whether it can be.
            some = self.study.test.take(slice(1)) if self.is_made(name) else self.study.test
            outside(source, some, seed=SEED, root=self.study.root)
            self.left_out.pop(name, None)
        return found | asked

    def find(self, kind: str) -> str | None:
        """The name of the set of a kind, for instance "kmnist" or a file "kmnist-test.npz"; None where there is none.

        What was asked for goes first. A set of torchvision's that is not on disk is downloaded if its server answers.
        """
        if kind not in self._found:
            self._found[kind] = self._find(kind)
        return self._found[kind]

    def _find(self, kind: str) -> str | None:
        names = [name for name in self.sources if name in (kind, f"{kind}.npz") or name.startswith(f"{kind}-")]
        if names:
            asked = {outside_name(source) for source in self.asked}
            return min(names, key=lambda name: (name not in asked, len(name)))
        wanted = kind in TORCHVISION and kind != self.study.test.name and self._fits_loaded
        if not wanted or kind not in self._reachable:
            return None
        try:
            self._load(kind)
        except OSError as error:
            self.left_out[kind] = str(error)
            return None
        self.sources[kind] = kind
        return kind

    @cached_property
    def _reachable(self) -> set[str]:
        """Sets that a server would give; all are asked at once, as one that does not answer takes seconds."""
        names = [name for name in TORCHVISION if name != self.study.test.name and name not in self.sources]
        with ThreadPoolExecutor(len(names) or 1) as pool:
            return {name for name, answers in zip(names, pool.map(probe, names), strict=True) if answers}

    @property
    def _fits_loaded(self) -> bool:
        """Whether the study's images are like those of torchvision's sets and of letters."""
        return self.study.test.shape == LOADED_SHAPE

    def _load(self, source: str) -> Images:
        return outside(source, self.study.test, seed=SEED, root=self.study.root)

    def lacks(self, kind: str) -> str:
        """Why a claim that takes a set of this kind can't be concluded; empty where it can, or where it takes none."""
        if not kind or self.find(kind) is not None:
            return ""
        wanted = "" if self._fits_loaded else f" as {describe_shape(self.study.test.shape)}"
        return f"takes images of {kind}, which are not at hand{wanted} (--ood path/to/{kind}.npz)"

    def images(self, name: str) -> tuple[Images, torch.Tensor]:
        """The images of a set that the study looks at, and the index of each.

        Made sets are made of the study's test images, in their order; of others, as many are taken at random.
        """
        if name not in self._images:
            self._images[name] = self._of_set(name)
        return self._images[name]

    def _of_set(self, name: str) -> tuple[Images, torch.Tensor]:
        study = self.study
        inside = study.test.take(study.indices)
        if name == INSIDE:
            return inside, study.indices
        if self.is_made(name):
            return outside(name, inside, seed=SEED, indices=study.indices, root=study.root), study.indices
        whole = self._load(self.sources[name])
        order = words(seed_for("outside-images", SEED), torch.arange(len(whole)), draws=1, size=1).flatten().argsort()
        chosen = order[: study.profile.images]
        return whole.take(chosen), chosen

    def is_made(self, name: str) -> bool:
        """Whether image i of a set is made of image i of the test set, so that the two are compared as a pair."""
        return name == INSIDE or is_made(name)

    def scores(self, name: str) -> Table:
        """Every score of a set's images, columns (runs, images); higher is more anomalous.

        Where finished models came without training images, scores that learn from these are not among them.
        """
        self.study.looked_at.add(_PREFIX + name)
        if name not in self._tables:
            self._tables[name] = self._collect(name)
        return self._tables[name]

    @staticmethod
    def named(conditions: Iterable[str]) -> list[str]:
        """The sets outside among what was looked at, in order; see `Study.looked_at`."""
        found = dict.fromkeys(one.removeprefix(_PREFIX) for one in conditions if one.startswith(_PREFIX))
        return [name for name in found if name != INSIDE]

    def _collect(self, name: str) -> Table:
        _ = self.study.runs
        calls = self.shards(name)
        with self.study.timed("scores"), self.study.meter(f"scores: {name}") as advance:
            return Table.of_shards(self.study.each(_shard, calls, advance), len(calls) // len(self.study.seeds))

    def shards(self, name: str) -> list[tuple[int, str, int]]:
        """What `shard` takes for all of a set's images, run by run."""
        starts = range(0, len(self.images(name)[0]), SHARD)
        return [(number, name, start) for number in range(len(self.study.seeds)) for start in starts]

    def shard(self, number: int, name: str, start: int) -> Tensors:
        """Every score, by one run, counted from 0, of SHARD images of a set from one place on."""
        study, train, run = self.study, self.train, self.study.run(number)
        images, whole = self.images(name)
        pixels, indices = images.pixels[start : start + SHARD], whole[start : start + SHARD]
        known = None if train is None else train.digest
        models = (run.vae_digest, run.classifier_digest, _odds_digest(run, study), known)
        key = digest("scores", run.seed, *models, pixels, indices, _STAGE, study.device.type)

        def compute() -> Tensors:
            if number not in self._judges:
                learnt = None if train is None else train.pixels.to(study.device)
                names = [name for name, score in scores.items() if learnt is not None or _LEARNS not in score.needs]
                seed = seed_for("scores", run.seed)
                self._judges[number] = fit_scores(run.vae, run.classifier, learnt, seed=seed, names=names)
            found = self._judges[number](pixels.to(study.device), indices=indices.to(study.device))
            return {score: values.cpu() for score, values in found.items()}

        return study.store.get("evidence", key, compute)

    @cached_property
    def train(self) -> Images | None:
        """Training images; None where finished models came without any."""
        try:
            return self.study.train
        except ValueError:
            if None in (self.study.vae, self.study.classifier):
                raise
            return None


def tasks(study: "Study") -> list[tuple[Any, ...]]:
    """Functions, and what they take besides the study, that compute every score of every set."""
    names = (INSIDE, *study.outside.sources)
    return [(_shard, *call) for name in names for call in study.outside.shards(name)]


def _shard(study: "Study", number: int, name: str, start: int) -> Tensors:
    return study.outside.shard(number, name, start)


def _odds_digest(run: "Run", study: "Study") -> str:
    """Digest of the log-odds that a VAE gives beside its images, where it does; raises ValueError where they differ."""
    give = getattr(run.vae, "decode_logits", None)
    if give is None:
        return ""
    with torch.no_grad(), one_thread():
        latents = posterior(run.vae, study.test.pixels[:64].to(study.device))[0]
        odds = give(latents)
        difference = float((odds.float().sigmoid().flatten(1) - run.vae.decode(latents).flatten(1)).abs().max())
    if not difference < _ALIKE:
        raise ValueError(
            "the VAE's decode_logits must be the log-odds of what decode gives; their sigmoid is off by"
            f" {difference:.3g}"
        )
    return digest(odds)


# Taken at import, as in `claims.study`.
_STAGE = source_digest(_features, _fitted, _likelihood, _models, _noise, _outside, _reconstruct, _scores)
