"""The sets outside of a study: which there are, and their images."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import torch

from vaecore import OUTSIDE_MADE, Images, outside, outside_name
from vaecore.suite.study.conditions import INSIDE, OUTSIDE, Condition
from vaecore.suite.study.tasks import Given
from vaecore.toolkit import (
    LOADED_SHAPES,
    PATCHES_ALONG_A_SIDE,
    TORCHVISION,
    data_root,
    describe_shape,
    is_available,
    is_made,
    load_whole,
    probe,
    seed_for,
    words,
)

SEED = 0  # of the sets that are made: the same images for all runs and studies
KEPT_FOR_PILOTS = 3  # one image in so many of a set, so that what sets bounds is never judged by them
HOME_SHARE = 0.2  # of a set, on which a VAE that is trained on it is judged, and as much in pilots; the rest trains it
# Groups after OpenOOD v1.5 (Zhang et al. 2023). Covariate shift: a person still reads the class off the image. Near:
# images of the same kind, say other characters. Far: of another kind, and noise. A user's own sets are in none.
NEAR, FAR, COVARIATE, OWN = GROUPS = ("near", "far", "covariate shift", "own")
_KEEP_THE_CLASS = ("rotated", "mirrored", "inverted", "dimmed")
_KINDS = {
    **dict.fromkeys(("mnist", "digits", "letters", "kmnist", "emnist-letters", "notmnist", "omniglot"), "characters"),
    "fashion-mnist": "clothes",
    **dict.fromkeys(("cifar-10", "cifar-100"), "photographs of animals and vehicles"),
    "svhn": "photographs of house numbers",
}
# Made sets that studies of grey images look at only if asked, so that MNIST's matrix stays that of its reference run.
FOR_COLOUR = ("blank", "texture")


@dataclass
class Sets:
    """The sets outside that a study looks at. A set goes by the name that `vaecore.outside` gives it.

    test, indices: the test images, and the indices of those looked at. most: images of a set that are looked at. asked:
    what `--ood` names. pilot: take the images of a set that are kept for pilots, and else never those.
    """

    test: Images
    indices: torch.Tensor
    most: int
    root: str | None = None
    asked: tuple[str, ...] = ()
    pilot: bool = False
    _left_out: dict[str, str] = field(default_factory=dict)
    _whole: dict[str, Images] = field(default_factory=dict)
    _kinds: dict[str, str | None] = field(default_factory=dict)
    _images: dict[str, tuple[Images, torch.Tensor]] = field(default_factory=dict)
    _shards: dict[tuple[Condition, int, int], Given] = field(default_factory=dict)

    @property
    def left_out(self) -> dict[str, str]:
        """Sets at hand that can't be compared, and why."""
        _ = self.sources
        return self._left_out

    @cached_property
    def sources(self) -> dict[str, str]:
        """Each set's name, and what `vaecore.outside` takes for it: made sets, those at hand, those asked for.

        At hand are letters, torchvision's sets that are on disk, and the .npz files in the data folder's `ood`; those
        that do not fit the images are `left_out`. Raises ValueError where what is asked for does not fit, or two sets
        go by one name.
        """
        test, root, shape = self.test, self.root, self.test.shape
        made = [name for name in OUTSIDE_MADE if shape[0] == 3 or name not in FOR_COLOUR]
        if any(side % PATCHES_ALONG_A_SIDE for side in shape[1:]):
            made.remove("shuffled-patches")
            self._left_out["shuffled-patches"] = f"{PATCHES_ALONG_A_SIDE} does not divide {shape[1]}x{shape[2]}"
        try:
            files = sorted(map(str, (data_root(root) / "ood").glob("*.npz")))
        except FileNotFoundError:  # no home folder, so no data in it
            files = []
        fitting, unfit = dict(zip(made, made, strict=True)), dict[tuple[int, int, int], list[str]]()
        for source in (*(name for name in TORCHVISION if is_available(name, root)), "letters", *files):
            name = outside_name(source)
            if name == test.name:
                continue
            try:
                if source in files:
                    found = load_whole(source).shape
                elif (found := LOADED_SHAPES[name]) == shape:
                    self._load(source)  # to see whether its files are sound
            except (ValueError, OSError) as error:
                self._left_out[name] = str(error)
                continue
            if found == shape:
                fitting[name] = source
            else:
                unfit.setdefault(found, []).append(name)
        for other, names in unfit.items():
            reason = f"{describe_shape(other)}, where {test.name} is {describe_shape(shape)}"
            self._left_out[", ".join(names)] = reason
        asked: dict[str, str] = {}
        for source in self.asked:
            name = outside_name(source)
            if asked.setdefault(name, source) != source:
                raise ValueError(f"sets outside must have different names; got two {name} (rename one of the files)")
            # To see whether a set can be made, one image is enough.
            some = test.take(slice(1)) if is_made(name) else test
            outside(source, some, seed=SEED, root=root)
            self._left_out.pop(name, None)
        return fitting | asked

    def find(self, kind: str) -> str | None:
        """The name of the set of a kind, for instance "kmnist" or a file "kmnist-test.npz"; None where there is none.

        What was asked for goes first. A set of torchvision's that is not on disk is downloaded, unless it is large, if
        its server answers.
        """
        if kind not in self._kinds:
            self._kinds[kind] = self._find(kind)
        return self._kinds[kind]

    def _find(self, kind: str) -> str | None:
        names = [name for name in self.sources if name in (kind, f"{kind}.npz") or name.startswith(f"{kind}-")]
        if names:
            asked = {outside_name(source) for source in self.asked}
            return min(names, key=lambda name: (name not in asked, len(name)))
        if kind not in self._reachable:
            return None
        try:
            self._load(kind)
        except OSError as error:
            self._left_out[kind] = str(error)
            return None
        self.sources[kind] = kind
        return kind

    @cached_property
    def _reachable(self) -> set[str]:
        """Sets that a server would give; all are asked at once, as one that does not answer takes seconds."""
        others = {*TORCHVISION} - {self.test.name, *self.sources}
        names = [name for name in others if self._fits(name) and not TORCHVISION[name].large]
        with ThreadPoolExecutor(len(names) or 1) as pool:
            return {name for name, answers in zip(names, pool.map(probe, names), strict=True) if answers}

    def _fits(self, name: str) -> bool:
        """Whether a set that loads by name has images like the study's."""
        return LOADED_SHAPES[name] == self.test.shape

    def _load(self, source: str) -> Images:
        if source not in self._whole:
            self._whole[source] = outside(source, self.test, seed=SEED, root=self.root)
        return self._whole[source]

    def lacks(self, kind: str) -> str:
        """Why a claim that takes a set of this kind can't be concluded; empty where it can, or where it takes none."""
        if not kind or self.find(kind) is not None:
            return ""
        if is_made(kind):
            return f"takes images of {kind}, which are made if asked for (--ood {kind})"
        remedy, fits = f"--ood path/to/{kind}.npz", LOADED_SHAPES.get(kind) == self.test.shape
        if fits and kind in TORCHVISION and TORCHVISION[kind].large:
            remedy = f"--ood {kind} downloads it, or {remedy}"
        wanted = "" if fits else f" as {describe_shape(self.test.shape)}"
        return f"takes images of {kind}, which are not at hand{wanted} ({remedy})"

    def condition(self, kind: str) -> Condition:
        """The set of a kind as a condition; raises ValueError where it is not at hand."""
        name = self.find(kind)
        if name is None:
            raise ValueError(self.lacks(kind))
        return OUTSIDE(label=name)

    @property
    def conditions(self) -> list[Condition]:
        """All sets outside as conditions."""
        return [OUTSIDE(label=name) for name in self.sources]

    def images(self, condition: Condition) -> tuple[Images, torch.Tensor]:
        """The images of a set that the study looks at, and the index of each.

        Made sets are made of the study's test images, in their order; of others, images are taken at random.
        """
        if condition.label not in self._images:
            self._images[condition.label] = self._of_set(condition)
        return self._images[condition.label]

    def _of_set(self, condition: Condition) -> tuple[Images, torch.Tensor]:
        name, inside = condition.label, self.test.take(self.indices)
        if condition == INSIDE:
            return inside, self.indices
        if is_made(name):
            return outside(name, inside, seed=SEED, indices=self.indices, root=self.root), self.indices
        whole = self._load(self.sources[name])
        order = in_random_order("outside-images", len(whole), SEED)
        kept = len(whole) - len(whole) // KEPT_FOR_PILOTS
        chosen = (order[kept:] if self.pilot else order[:kept])[: self.most]
        return whole.take(chosen), chosen

    def group(self, condition: Condition) -> str:
        """The one of GROUPS that a set is in. Files go by the name that they start with."""
        if is_made(condition.label):
            return COVARIATE if condition.label.startswith(_KEEP_THE_CLASS) else FAR
        kinds = {_KINDS.get(kind_of(name)) for name in (condition.label, self.test.name)}
        if None in kinds:
            return OWN
        return NEAR if len(kinds) == 1 else FAR

    def parted(self, condition: Condition) -> tuple[Images, torch.Tensor, torch.Tensor]:
        """All images of a set, the places of those that a VAE trained on it does not see, and of which it is judged on.

        Raises ValueError for a set of too few images.
        """
        whole = self._load(self.sources[condition.label])
        order, each = in_random_order("trained-on", len(whole), SEED), int(HOME_SHARE * len(whole))
        if each < 2:
            raise ValueError(f"a set to train a VAE on must have 10 images or more; {condition.label} has {len(whole)}")
        home = order[each : 2 * each] if self.pilot else order[:each]
        return whole, order[: 2 * each], home[: self.most]

    def shard(self, condition: Condition, start: int, stop: int) -> Given:
        """Some of a set's images as an input: pixels and indices."""
        key = condition, start, stop
        if key not in self._shards:
            images, indices = self.images(condition)
            self._shards[key] = Given({"pixels": images.pixels[start:stop], "indices": indices[start:stop]})
        return self._shards[key]


def kind_of(name: str) -> str:
    """The kind of a loaded set, such as "kmnist" for kmnist-test.npz; a name of no known kind stays as it is."""
    stem = name.removesuffix(".npz")
    known = [kind for kind in _KINDS if stem == kind or stem.startswith(f"{kind}-")]
    return max(known, key=len, default=name)


def in_random_order(purpose: str, count: int, seed: int = 0) -> torch.Tensor:
    """Places 0 to count - 1 in an order that follows from the purpose and a seed."""
    return words(seed_for(purpose, seed), torch.arange(count), draws=1, size=1).flatten().argsort()
