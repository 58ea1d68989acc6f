"""Conditions: what is done to test images before models see them, and by whom. Plain values; imports no torch.

A kind of condition is a row of this file. `study/perturbations.py` holds what a kind does to images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Share = Literal["clean", "all", "few", "adaptive"]
"""How many test images a condition takes, by the profile: most of clean ones, of which few are misclassified; all that
conditions share; fewer for expensive attacks and for what is only shown; fewest for attacks that differentiate through
the VAE."""

Unit = Literal["", "budgets", "degrees", "intensity"]
"""What the size of a condition counts: nothing, L-infinity budgets of the protocol, degrees, or pixel intensity."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of condition; call it with a size, in its unit, for a `Condition`.

    name: the first part of its conditions' names. title: for figures. threat: the threat model in one sentence; both
    may have `{size}` and `{label}`. knows: models that its attacker differentiates through, and the alarms that it
    avoids; none of noise, transforms and sets, which nobody aims. share: how many images it takes; shares: the same for
    single sizes. settings: of the function that perturbs. twin_of: the condition that noise is as large as, image by
    image. minimal: an attack that may fail, whose failures are left out. kept: an expensive attack, whose images the
    store keeps. room: what stands before the name, where the name alone would not tell the family.
    """

    name: str
    title: str
    threat: str
    knows: tuple[Literal["classifier", "vae", "alarms"], ...] = ()
    unit: Unit = ""
    share: Share = "all"
    shares: Mapping[float, Share] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    twin_of: "Condition | None" = None
    minimal: bool = False
    kept: bool = False
    room: str = ""

    def __call__(self, size: float | None = None, *, label: str = "") -> "Condition":
        """The condition of this kind with a size, in the kind's unit; label: of a set or a purifier."""
        if (size is None) != (self.unit == ""):
            raise ValueError(
                f"{self.name} must have {'a size in ' + self.unit if self.unit else 'no size'}; got {size}"
            )
        return Condition(self, size, label)


@dataclass(frozen=True)
class Condition:
    """A kind of change to the test images, its size in the kind's unit, and the label of a set or purifier."""

    kind: Kind
    size: float | None = None
    label: str = ""

    @property
    def share(self) -> Share:
        """How many images it takes."""
        return self.kind.shares.get(self.size or 0.0, self.kind.share)

    @property
    def attack(self) -> "Condition | None":
        """The attack whose failures are left out: this one, or that which its noise is as large as."""
        return self.kind.twin_of or (self if self.kind.minimal else None)


_OF_CLASSIFIER = "knows the classifier and its weights, and nothing of the VAE"
_OF_BOTH = (
    "White box: PGD knows classifier, VAE, number of draws and rule, all but the random numbers of the draws (EOT);"
    " changes each pixel by {size} at most, and wants"
)
_LBFGS = f"L-BFGS {_OF_CLASSIFIER}; seeks the smallest change (L2) that gives a random wrong label"
SIZES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # budgets
CONFIDENCE = 0.98  # of the target, on L-BFGS images that do not sit on the decision boundary

CLEAN = Kind("clean", "clean", "No attacker: test images as they are.", share="clean")()
FGSM = Kind(
    "fgsm",
    "FGSM, $\\epsilon$ = {size}",
    f"FGSM, one step along the gradient's sign, {_OF_CLASSIFIER}; changes each pixel by {{size}} at most.",
    knows=("classifier",),
    unit="budgets",
)
UNIFORM = Kind(
    "uniform",
    "uniform noise, $\\epsilon$ = {size}",
    "No attacker: uniform noise of {size} a pixel at most, which nobody aims.",
    unit="budgets",
    share="few",
    shares={0.25: "all", 1.0: "all"},  # a claim takes these; the others are shown
)
SIGN = Kind(
    "sign",
    "sign noise, $\\epsilon$ = {size}",
    "No attacker: each pixel moved up or down by {size} at random, which nobody aims.",
    unit="budgets",
    share="few",
    shares={0.25: "all", 0.5: "all", 1.0: "all"},
)
LBFGS = Kind("lbfgs", "L-BFGS", f"{_LBFGS}.", knows=("classifier",), share="few", minimal=True, kept=True)()
CONFIDENT = Kind(
    f"lbfgs-{CONFIDENCE:g}",
    f"L-BFGS, confidence {CONFIDENCE:g}",
    f"{_LBFGS} with a confidence of {CONFIDENCE:g}.",
    knows=("classifier",),
    share="few",
    settings={"confidence": CONFIDENCE},
    minimal=True,
    kept=True,
)()


def _twin(attack: Condition) -> Condition:
    name = attack.kind.name
    return Kind(
        f"gaussian-{name}",
        f"Gaussian noise,\nL2 size of {attack.kind.title}",
        f"No attacker: Gaussian noise as large (L2), image by image, as the change of {name}.",
        share=attack.share,
        twin_of=attack,
    )()


GAUSSIAN, GAUSSIAN_CONFIDENT = _twin(LBFGS), _twin(CONFIDENT)
# The adaptive attackers' effort, settled on pilot seeds and training images: more steps or draws than these gain
# nothing (see the figure of convergence in the report).
JOINT = Kind(
    "joint",
    "joint PGD on classifier\nand VAE, $\\epsilon$ = {size}",
    f"{_OF_BOTH} all draws to get its wrong label.",
    knows=("classifier", "vae"),
    unit="budgets",
    share="adaptive",
    settings={"steps": 40},
    kept=True,
)


def _evading(
    name: str, title: str, threat: str, scores: str, *, known_draws: bool = False, magnet: bool = False
) -> Kind:
    return Kind(
        name,
        f"{title}, $\\epsilon$ = {{size}}",
        f"{threat}; it changes each pixel by {{size}} at most, and wants a wrong label that raises no alarm: draws that"
        f" agree, and {scores} that are each below what one in ten clean images exceeds.",
        knows=("classifier", "vae", "alarms"),
        unit="budgets",
        share="adaptive",
        settings={"steps": 60, "known_draws": known_draws, "magnet": magnet},
        kept=True,
    )


_SCORES = "an error, a disagreement and a doubt"
_OF_ALARMS = "White box: selective PGD knows classifier, VAE, alarms and their thresholds"
EVADE = _evading(
    "evade",
    "selective PGD past\nall alarms",
    f"{_OF_ALARMS}, all but the random numbers of the draws (EOT)",
    _SCORES,
)
EVADE_KNOWN = _evading(
    "evade-known",
    "selective PGD past\nall alarms, draws known",
    f"{_OF_ALARMS}, and the random numbers of the draws",
    _SCORES,
    known_draws=True,
)
EVADE_MAGNET = _evading(
    "evade-magnet",
    "selective PGD past\nMagNet's detectors",
    f"{_OF_ALARMS}, all but the random numbers of the draws (EOT)",
    "MagNet's error and divergence",
    magnet=True,
)
PGD = Kind(
    "pgd",
    "PGD, $\\epsilon$ = {size}",
    f"PGD {_OF_CLASSIFIER} or of any purifier; changes each pixel by {{size}} at most.",
    knows=("classifier",),
    unit="budgets",
    settings={"steps": 40},
    kept=True,
)
WORST_CASE = Kind(
    "worst-case",
    "worst of three attacks, $\\epsilon$ = {size}",
    "Auto-PGD on the cross-entropy and towards each class, and Square, the worst case image by image: it"
    f" {_OF_CLASSIFIER} or of any purifier; changes each pixel by {{size}} at most.",
    knows=("classifier",),
    unit="budgets",
    share="few",
    settings={"steps": 50, "targets": 9, "queries": 500},
    kept=True,
)
PURIFIED = Kind(
    "pgd",
    "PGD through {label}, $\\epsilon$ = {size}",
    "White box: PGD knows the classifier and the purifier {label} with its parameters, all but the random numbers of"
    " its draws (EOT); changes each pixel by {size} at most.",
    knows=("classifier", "vae"),
    unit="budgets",
    share="adaptive",
    room="purified/{label}",
)
ROTATED = Kind(
    "rotated",
    "turned by {size} degrees",
    "No attacker: test images turned by {size} degrees.",
    unit="degrees",
    room="decisions",
)
NOISY = Kind(
    "gaussian",
    "Gaussian noise, $\\sigma$ = {size}",
    "No attacker: Gaussian noise of standard deviation {size} a pixel, which nobody aims.",
    unit="budgets",
    room="decisions",
)
# The field certifies with these sigmas whatever the data (Cohen et al. 2019): they follow from the radius, no budget.
SMOOTHED = Kind(
    "smoothed",
    "smoothing, $\\sigma$ = {size}",
    "No attacker: certificates of the classifier under Gaussian noise of standard deviation {size} a pixel hold against"
    " every change that is smaller (L2) than their radius.",
    unit="intensity",
    room="certified",
)
MIX = Kind(
    "outside-mix",
    "half from outside",
    "No attacker: test images as they are, mixed half and half with images from outside the data set.",
    room="decisions",
)()
INSIDE = Kind("inside", "inside", "No attacker: test images as they are.", room="outside")()
OUTSIDE = Kind(
    "", "{label}", "No attacker: images of {label}, which are not of the data set.", room="outside"
)  # called with the label of a set
HIDDEN = Kind(
    "hidden",
    "{label}, hiding from a score, $\\epsilon$ = {size}",
    "White box: PGD knows the models, the score and what it has learnt, all but the random numbers of its draws (EOT);"
    " changes each pixel of images of {label} by {size} at most, and wants a score as low as can be had.",
    knows=("classifier", "vae"),
    unit="budgets",
    share="adaptive",
    settings={"steps": 100},
    room="outside/{label}",
)
HIDDEN_BY = 1.5  # budgets by which images move to hide
HOME = Kind(
    "inside",
    "inside",
    "No attacker: images of {label} that the VAE, trained on others of {label}, has not seen.",
    room="trained-on/{label}",
)
AWAY = Kind(
    "outside",
    "test images",
    "No attacker: test images, which are outside for a VAE trained on {label}.",
    room="trained-on/{label}",
)

# Conditions under which reconstructions are classified, in the order of tables.
DRAWN: tuple[Condition, ...] = (
    CLEAN,
    *(kind(size) for kind in (FGSM, UNIFORM, SIGN) for size in SIZES),
    *(LBFGS, CONFIDENT, GAUSSIAN, GAUSSIAN_CONFIDENT),
    *(JOINT(1.5), EVADE(1), EVADE(1.5), EVADE_KNOWN(1.5), EVADE_MAGNET(1.5)),
)
