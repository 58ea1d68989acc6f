"""Images from outside the data set: which sets there are, and their scores, each made once and kept in the store."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from claims.evidence import Table
from vaecore import _features, _fitted, _likelihood, _models, _noise, _outside, _reconstruct, _scores
from vaecore._images import TORCHVISION, Images, data_root, is_available, probe
from vaecore._noise import seed_for, words
from vaecore._outside import OUTSIDE_MADE, PATCHES_ALONG_A_SIDE, outside, outside_name
from vaecore._scores import FittedScores, fit_scores
from vaecore._store import Tensors, digest, source_digest

if TYPE_CHECKING:
    from claims.study import Run, Study

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
    _found: dict[str, str | None] = field(default_factory=dict)
    _tables: dict[str, Table] = field(default_factory=dict)
    _judges: dict[int, FittedScores] = field(default_factory=dict)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Each set's name, and what `vaecore.outside` takes for it: made sets, those at hand, those asked for.

        At hand are letters, torchvision's sets that are on disk, and every .npz file in the data folder's `ood`.
        """
        test, root = self.study.test, data_root(self.study.root)
        found = [*OUTSIDE_MADE]
        if any(side % PATCHES_ALONG_A_SIDE for side in test.pixels.shape[-2:]):
            found.remove("shuffled-patches")
        if self._fits_loaded:
            found += [name for name in TORCHVISION if is_available(name, self.study.root)]
            found += ["letters", *sorted(map(str, (root / "ood").glob("*.npz")))]
        named = {outside_name(source): source for source in (*found, *self.asked)}
        return {name: source for name, source in named.items() if name != test.name}

    def find(self, kind: str) -> str | None:
        """The name of the set of a kind, for instance "kmnist" or a file "kmnist-test.npz"; None where there is none.

        A set of torchvision's that is not on disk is downloaded where its server answers.
        """
        if kind not in self._found:
            names = [name for name in self.sources if name in (kind, f"{kind}.npz") or name.startswith(f"{kind}-")]
            wanted = kind in TORCHVISION and kind != self.study.test.name and self._fits_loaded
            if not names and wanted and probe(kind):
                self.sources[kind] = kind
                names = [kind]
            self._found[kind] = min(names, default=None, key=len)
        return self._found[kind]

    @property
    def _fits_loaded(self) -> bool:
        """Whether the study's images are of the size of torchvision's sets and of letters."""
        return self.study.test.pixels.shape[-2:] == (28, 28)

    def lacks(self, kind: str) -> str:
        """Why a claim that takes a set of this kind can't be concluded; empty where it can, or where it takes none."""
        if not kind or self.find(kind) is not None:
            return ""
        return f"takes images of {kind}, which are not at hand (--ood path/to/{kind}.npz)"

    def images(self, name: str) -> tuple[Images, torch.Tensor]:
        """The images of a set that the study looks at, and the index of each.

        Made sets are made of the study's test images, in their order; of others, as many are taken at random.
        """
        study = self.study
        inside = study.test.take(study.indices)
        if name == INSIDE:
            return inside, study.indices
        if self.is_made(name):
            return outside(name, inside, seed=SEED, indices=study.indices, root=study.root), study.indices
        whole = outside(self.sources[name], study.test, seed=SEED, root=study.root)
        order = words(seed_for("outside-images", SEED), torch.arange(len(whole)), draws=1, size=1).flatten().argsort()
        chosen = order[: study.profile.images]
        return whole.take(chosen), chosen

    def is_made(self, name: str) -> bool:
        """Whether image i of a set is made of image i of the test set, so that the two are compared as a pair."""
        return name == INSIDE or name.startswith(("rotated-", "dimmed-")) or name in OUTSIDE_MADE

    def scores(self, name: str) -> Table:
        """Every score of a set's images, columns (runs, images); higher is more anomalous."""
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
        images, indices = self.images(name)
        runs = []
        with self.study.timed("scores"), self.study.meter(f"scores: {name}") as advance:
            for number, run in enumerate(self.study.runs):
                shards = []
                for start in range(0, len(images), SHARD):
                    here = slice(start, start + SHARD)
                    shards.append(self._shard(number, run, images.pixels[here], indices[here]))
                    advance(number * len(images) + min(start + SHARD, len(images)), len(self.study.runs) * len(images))
                runs.append({score: torch.cat([shard[score] for shard in shards]) for score in shards[0]})
        return Table.of(runs)

    def _shard(self, number: int, run: "Run", pixels: torch.Tensor, indices: torch.Tensor) -> Tensors:
        study = self.study
        models = (run.vae_digest, run.classifier_digest, study.train.digest)
        key = digest("scores", run.seed, *models, pixels, indices, _STAGE, study.device.type)

        def compute() -> Tensors:
            if number not in self._judges:
                train = study.train.pixels.to(study.device)
                seed = seed_for("scores", run.seed)
                self._judges[number] = fit_scores(run.vae, run.classifier, train, seed=seed)
            found = self._judges[number](pixels.to(study.device), indices=indices.to(study.device))
            return {score: values.cpu() for score, values in found.items()}

        return study.store.get("evidence", key, compute)


# Taken at import, as in `claims.study`.
_STAGE = source_digest(_features, _fitted, _likelihood, _models, _noise, _outside, _reconstruct, _scores)
