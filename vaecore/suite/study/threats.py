"""The threat model of each condition: who attacks, what he knows, what he may change. One sentence each.

Noise and sets outside have no attacker, and say so: what they do to a claim, innocent images do.
"""

from vaecore.suite.study.cleaning import PGD, PURIFIED
from vaecore.suite.study.decisions import HELD, MIX
from vaecore.suite.study.draws import CLEAN, CONFIDENCE, CONFIDENT, JOINT, JOINT_MSE, LBFGS, TWINS
from vaecore.suite.study.outside import INSIDE

_OF_CLASSIFIER = "knows the classifier and its weights, and nothing of the VAE"
_OF_BOTH = (
    "White box: PGD knows classifier, VAE, number of draws and rule, all but the random numbers of the draws (EOT);"
    " changes each pixel by {size} at most"
)
_AS_THEY_ARE = "No attacker: test images as they are."
_SENTENCES = {
    CLEAN: _AS_THEY_ARE,
    LBFGS: f"L-BFGS {_OF_CLASSIFIER}; seeks the smallest change (L2) that gives a random wrong label.",
    CONFIDENT: f"L-BFGS {_OF_CLASSIFIER}; seeks the smallest change (L2) that gives a random wrong label with a"
    f" confidence of {CONFIDENCE:g}.",
    JOINT: f"{_OF_BOTH.format(size=JOINT.rpartition('-')[2])}, and wants all draws to get its wrong label.",
    JOINT_MSE: f"{_OF_BOTH.format(size=JOINT_MSE.rpartition('-')[2])}, and wants all draws to get its wrong label and"
    " the reconstruction error to stay small.",
    **{
        twin: f"No attacker: Gaussian noise as large (L2), image by image, as the change of {of}."
        for twin, of in TWINS.items()
    },
    **{
        name: f"PGD {_OF_CLASSIFIER} or of any purifier; changes each pixel by {name.removeprefix('pgd-')} at most."
        for name in PGD
    },
}
_KINDS = {
    "fgsm": "FGSM, one step along the gradient's sign, {knows}; changes each pixel by {size} at most.",
    "uniform": "No attacker: uniform noise of {size} a pixel at most, which nobody aims.",
    "sign": "No attacker: each pixel moved up or down by {size} at random, which nobody aims.",
}
_OF_DECISIONS = {
    "rotated": "No attacker: test images turned by {size} degrees.",
    "gaussian": "No attacker: Gaussian noise of standard deviation {size} a pixel, which nobody aims.",
}
_WHOLE = {
    MIX: "No attacker: test images as they are, mixed half and half with images from outside the data set.",
    HELD: "No attacker: training images that no model has learned from.",
}


def threat(condition: str) -> str:
    """The threat model of a condition that a study may look at, in a sentence; see `Study.looked_at`.

    Raises ValueError where none is written down.
    """
    room, _, name = condition.rpartition("/")
    kind, _, size = name.rpartition("-")
    if room == "outside":
        return _AS_THEY_ARE if name == INSIDE else f"No attacker: images of {name}, which are not of the data set."
    if room == "decisions" and (name in _WHOLE or kind in _OF_DECISIONS):
        return _WHOLE[name] if name in _WHOLE else _OF_DECISIONS[kind].format(size=size)
    if room.startswith(f"{PURIFIED}/"):
        return (
            f"White box: PGD knows the classifier and the purifier {room.partition('/')[2]} with its parameters, all"
            f" but the random numbers of its draws (EOT); changes each pixel by {size} at most."
        )
    if not room and condition in _SENTENCES:
        return _SENTENCES[condition]
    if not room and kind in _KINDS:
        return _KINDS[kind].format(knows=_OF_CLASSIFIER, size=size)
    raise ValueError(f"condition {condition!r} must have a threat model in claims/threats.py; it has none")
