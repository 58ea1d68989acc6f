"""A user's own data in a study: labels that can't be learned, and sets outside."""

import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from vaecore import outside_name
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.toolkit import is_made

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 17, 23, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


@pytest.fixture
def module(monkeypatch):
    """An importable module, `a_users_data`."""
    made = ModuleType("a_users_data")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS * 0, r"must have two labels or more; the test images have one"),
        (LABELS * 4 * 10**10, r"must be from 0 to 99999; got 40000000000"),
        (LABELS * 3, r"numbered from 0 without gaps, a few images each; there is none of class 1, 2$"),
    ],
)
def test_labels_that_no_classifier_can_learn_are_refused(module, labels, message):
    module.mine = (COLOUR, labels)
    with pytest.raises(ValueError, match=message):
        Setup(Dataset("a_users_data:mine", "as asked")).check()


def test_own_data_may_be_the_set_outside(module, tmp_path):
    module.inside, module.other = (COLOUR, LABELS), (255 - COLOUR, LABELS)
    (tmp_path / "rotated-30/a").mkdir(parents=True)
    for number, image in enumerate(COLOUR):
        Image.fromarray(image).save(tmp_path / f"rotated-30/a/{number}.png")
    asked = ("a_users_data:other", str(tmp_path / "rotated-30"))
    sets = Setup(Dataset("a_users_data:inside", "as asked"), ood=asked).sets
    names = [outside_name(source) for source in asked]
    assert names == ["a_users_data.other", "rotated-30-folder"]
    assert not any(map(is_made, names))
    assert sets.images(sets.condition(names[0]))[0].shape == (3, 17, 23)
