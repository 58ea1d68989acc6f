"""The protocol of a study: attack budget, draws, and how much is looked at. Plain values; imports no torch."""

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING

from vaecore.suite.budget import DRAWS, GREY, usual_budget
from vaecore.suite.study.conditions import CLEAN, DRAWN, UNIFORM, Condition
from vaecore.suite.text import intensity

if TYPE_CHECKING:
    from vaecore import Images

PILOT_SEED = 1000  # seeds from here on set bounds and are never used by the claims


@dataclass(frozen=True)
class Profile:
    """How much a study looks at: training runs, test images, fewer for expensive attacks, and more of clean ones.

    attack_share: what was asked for as the share of the images for L-BFGS and what else is expensive.
    """

    name: str
    runs: int
    images: int
    lbfgs_images: int
    adaptive_images: int
    clean_images: int = 0  # beside `images`, where these are more
    attack_share: float | None = None

    def of(self, available: int) -> "Profile":
        """The same for so many test images: a share that was asked for is one of those that are there.

        Attacks that differentiate through the VAE keep their share of it.
        """
        if self.attack_share is None:
            return self
        few = max(2, round(self.attack_share * min(self.images, available)))
        adaptive = max(2, round(self.adaptive_images / self.lbfgs_images * few))
        return replace(self, lbfgs_images=few, adaptive_images=adaptive)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("smoke", 1, 200, 100, 20),
        Profile("standard", 5, 2_000, 500, 150, 10_000),
        Profile("full", 10, 10_000, 1_000, 1_000),
    )
}


def profile_of(
    name: str, runs: int | None = None, images: int | None = None, attack_share: float | None = None
) -> Profile:
    """A profile by name, with other numbers where these are given.

    images: test images, clean ones too; expensive attacks keep their shares of them. attack_share: see `Profile`.
    Raises ValueError for numbers that are out of range.
    """
    profile = PROFILES[name]
    if runs is not None:
        profile = replace(profile, runs=_least("--runs", runs, 1))
    if attack_share is not None and not (isinstance(attack_share, Real) and 0 < attack_share <= 1):
        raise ValueError(f"--attack-share must be above 0 and at most 1; got {attack_share!r}")
    if images is not None:
        total = _least("--images", images, 2)
        few = max(2, round(profile.lbfgs_images / profile.images * total))
        adaptive = max(2, round(profile.adaptive_images / profile.lbfgs_images * few))
        profile = replace(profile, images=total, lbfgs_images=few, adaptive_images=adaptive, clean_images=0)
    return replace(profile, attack_share=attack_share)


def draws_of(number: int | None) -> int:
    """Reconstructions of an image, by default 10; raises ValueError below 2, where labels can't disagree."""
    return DRAWS if number is None else _least("--draws", number, 2)


def seed_of(number: int | None, *, pilot: bool) -> int:
    """Training seed of the first run; raises ValueError for one of pilots, and for a pilot with one of its own."""
    if pilot and number is not None:
        raise ValueError(f"--first-seed must be left out with --pilot, whose seeds start at {PILOT_SEED}")
    first = PILOT_SEED if pilot else _least("--first-seed", number or 0, 0)
    if first >= PILOT_SEED and not pilot:
        raise ValueError(f"--first-seed must be below {PILOT_SEED}, where the seeds of pilots begin; got {first}")
    return first


def _least(option: str, number: int, least: int) -> int:
    if not isinstance(number, Integral) or isinstance(number, bool) or number < least:
        raise ValueError(f"{option} must be {least} or more; got {number!r}")
    return int(number)


@dataclass(frozen=True)
class Protocol:
    """What a study does to images, and how often.

    budget: L-infinity size of an attack, in pixel intensity; all sizes of attacks and their noise are multiples of it.
    draws: reconstructions of an image. more: what they are multiplied by where many are compared with few. eot_draws:
    draws that an adaptive attacker averages over in a step. shard: images whose evidence is one task; scored: whose
    scores are. conditions: under which reconstructions are classified.
    """

    profile: Profile = PROFILES["standard"]
    budget: float = GREY
    draws: int = DRAWS
    more: int = 5
    eot_draws: int = 5
    shard: int = 500
    scored: int = 2_000
    conditions: tuple[Condition, ...] = DRAWN

    @property
    def with_elbo(self) -> tuple[Condition, ...]:
        """Conditions under which the ELBO is computed."""
        return CLEAN, UNIFORM(0.25)

    @property
    def many_draws(self) -> int:
        """Reconstructions of an image where many are compared with few."""
        return self.more * self.draws

    @property
    def few_draws(self) -> int:
        """The same where few are compared with many."""
        return self.draws // 2

    def budgets(self, number: float) -> float:
        """So many attack budgets, in pixel intensity."""
        return round(number * self.budget, 12)

    def size(self, condition: Condition) -> float:
        """A condition's size in pixel intensity or degrees; 0 where it has none."""
        size = condition.size or 0.0
        return self.budgets(size) if condition.kind.unit == "budgets" else size

    def shown_size(self, condition: Condition) -> str:
        """A condition's size as it is shown, for instance "0.2" or "8/255"."""
        return intensity(self.size(condition)) if condition.kind.unit == "budgets" else f"{condition.size or 0.0:g}"

    def name(self, condition: Condition) -> str:
        """A condition's name in tables and files, for instance "fgsm-0.2"."""
        if condition.size is None:
            return condition.kind.name or condition.label
        return f"{condition.kind.name}-{self.shown_size(condition)}"

    def full_name(self, condition: Condition) -> str:
        """Its name with the room of the family that looks at it, for instance "outside/kmnist"."""
        room = condition.kind.room.format(label=condition.label)
        return f"{room}/{self.name(condition)}" if room else self.name(condition)

    def title(self, condition: Condition) -> str:
        """Its name in figures."""
        return condition.kind.title.format(size=self.shown_size(condition), label=condition.label)

    def threat(self, condition: Condition) -> str:
        """Its threat model: who attacks, knowing what, and what may be changed."""
        return condition.kind.threat.format(size=self.shown_size(condition), label=condition.label)

    def images(self, condition: Condition) -> int:
        """Test images looked at under a condition, where there are so many."""
        profile = self.profile
        return {
            "clean": max(profile.images, profile.clean_images),
            "all": profile.images,
            "few": profile.lbfgs_images,
            "adaptive": profile.adaptive_images,
        }[condition.share]

    @property
    def trial_images(self) -> int:
        """Test images on which an attacker's effort is varied, in the first run."""
        return max(2, self.profile.adaptive_images // 2)


def protocol_of(test: "Images", profile: Profile, draws: int, budget: float | None = None) -> Protocol:
    """A protocol for these test images; budget: by default that which the field attacks such images with."""
    return Protocol(profile.of(len(test)), usual_budget(test.shape[0]) if budget is None else budget, draws)
