"""The protocol of a study: attack budget, draws, and how much is looked at. Plain values; imports no torch."""

from dataclasses import dataclass, replace

from vaecore.suite.study.conditions import CLEAN, DRAWN, UNIFORM, Condition

PILOT_SEED = 1000  # seeds from here on set bounds and are never used by the claims


@dataclass(frozen=True)
class Profile:
    """How much a study looks at: training runs, test images, fewer for expensive attacks, and more of clean ones."""

    name: str
    runs: int
    images: int
    lbfgs_images: int
    adaptive_images: int
    clean_images: int = 0  # beside `images`, where these are more


PROFILES = {
    profile.name: profile
    for profile in (
        Profile("smoke", 1, 200, 100, 20),
        Profile("standard", 5, 2_000, 500, 150, 10_000),
        Profile("full", 10, 10_000, 1_000, 1_000),
    )
}


def profile_of(name: str, runs: int | None) -> Profile:
    """A profile by name, with another number of runs where one is given; raises ValueError below 1."""
    profile = PROFILES[name]
    if runs is None:
        return profile
    if runs < 1:
        raise ValueError(f"--runs must be 1 or more; got {runs}")
    return replace(profile, runs=runs)


@dataclass(frozen=True)
class Protocol:
    """What a study does to images, and how often.

    budget: L-infinity size of an attack, in pixel intensity; all sizes of attacks and their noise are multiples of it.
    draws: reconstructions of an image. many_draws: the same where many are compared with few. eot_draws: draws that an
    adaptive attacker averages over in a step. shard: images whose evidence is one task; scored: whose scores are.
    conditions: under which reconstructions are classified.
    """

    profile: Profile = PROFILES["standard"]
    budget: float = 0.2
    draws: int = 10
    many_draws: int = 50
    eot_draws: int = 5
    shard: int = 500
    scored: int = 2_000
    conditions: tuple[Condition, ...] = DRAWN

    @property
    def with_elbo(self) -> tuple[Condition, ...]:
        """Conditions under which the ELBO is computed."""
        return CLEAN, UNIFORM(0.25)

    def size(self, condition: Condition) -> float:
        """A condition's size in pixel intensity or degrees; 0 where it has none."""
        size = condition.size or 0.0
        return round(size * self.budget, 12) if condition.kind.unit == "budgets" else size

    def name(self, condition: Condition) -> str:
        """A condition's name in tables and files, for instance "fgsm-0.2"."""
        if condition.size is None:
            return condition.kind.name or condition.label
        return f"{condition.kind.name}-{self.size(condition):g}"

    def full_name(self, condition: Condition) -> str:
        """Its name with the room of the family that looks at it, for instance "outside/kmnist"."""
        room = condition.kind.room.format(label=condition.label)
        return f"{room}/{self.name(condition)}" if room else self.name(condition)

    def title(self, condition: Condition) -> str:
        """Its name in figures."""
        return condition.kind.title.format(size=f"{self.size(condition):g}", label=condition.label)

    def threat(self, condition: Condition) -> str:
        """Its threat model: who attacks, knowing what, and what may be changed."""
        return condition.kind.threat.format(size=f"{self.size(condition):g}", label=condition.label)

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
