"""A claim as the results hold it, and small files in the place of figures."""

import pytest

from vaecore.suite.report.figures.catalogue import FIGURES

PNG = bytes.fromhex(  # one black pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63600000000200014873afa40000000049454e44ae426082"
)


@pytest.fixture(scope="session")
def files():
    """A picture for each figure, as PNG and, larger, as SVG."""
    return {f"{name}.{suffix}": PNG + b"larger" * (suffix == "svg") for name in FIGURES for suffix in ("png", "svg")}


@pytest.fixture(scope="session")
def claim():
    """Give a function that makes a claim with other values for some keys."""

    def make(name="X1", **changes):
        return {
            "claim": name,
            "verdict": "supported",
            "message": f"{name} supported",
            "estimate": 0.8,
            "low": 0.7,
            "high": 0.9,
            "level": 0.95,
            "bound": "> 0.60",
            "bound_low": 0.6,
            "bound_high": None,
            "runs": 2,
            "images": 12,
            "per_run": [0.75, 0.85],
            "power": 0.9,
            "needed_images": None,
            "needed_runs": None,
            "conditions": ["clean"],
            "kind": "finding",
            "sentence": f"A sentence of {name}.",
            "estimand": "a share",
            "source": "a study",
            "pilot": "",
            "registered": "",
            "reported": "",
            "no_effect": {"low": 0.5, "high": None},
            "why": "",
            "amiss": "",
            "more": "than the page knows",
        } | changes

    make.undefined = dict.fromkeys(("estimate", "low", "high", "power")) | {
        "per_run": [None, None],
        "verdict": "inconclusive",
    }
    return make
