"""A user's own data in a study: labels that can't be learned, data that change, and sets outside."""

import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from vaecore import Store, outside_name
from vaecore.suite.study.study import Dataset, Profile, Study

COLOUR = np.random.default_rng(0).integers(0, 256, (20, 17, 23, 3), dtype=np.uint8)
LABELS = np.arange(20) % 2


@pytest.fixture
def module(monkeypatch):
    """An importable module, `a_users_data`."""
    made = ModuleType("a_users_data")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


def study_of(text, tmp_path, **options):
    return Study(Dataset(text, "as asked"), Profile("standard", 1, 4, 4, 2), Store(tmp_path / "cache"), **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(20, dtype=int), r"must have two labels or more; the test images have one"),
        (np.arange(20) % 2 * 3, r"numbered from 0 without gaps, a few images each; there is none of class 1, 2$"),
    ],
)
def test_labels_that_no_classifier_can_learn_are_refused(module, tmp_path, labels, message):
    module.mine = (COLOUR, labels)
    with pytest.raises(ValueError, match=message):
        study_of("a_users_data:mine", tmp_path).check()


def test_data_that_change_from_process_to_process_are_named(module, tmp_path):
    module.mine = (COLOUR, LABELS)
    worker = study_of("a_users_data:mine", tmp_path).for_worker()
    module.mine = (COLOUR[::-1], LABELS)
    with pytest.raises(ValueError, match=r"must give the same images each time.*or use --workers 1"):
        _ = worker.test


def test_own_data_may_be_the_set_outside(module, tmp_path):
    module.inside, module.other = (COLOUR, LABELS), (255 - COLOUR, LABELS)
    (tmp_path / "rotated-30/a").mkdir(parents=True)
    for number, image in enumerate(COLOUR):
        Image.fromarray(image).save(tmp_path / f"rotated-30/a/{number}.png")
    study = study_of("a_users_data:inside", tmp_path, ood=("a_users_data:other", str(tmp_path / "rotated-30")))
    names = [outside_name(source) for source in study.ood]
    assert names == ["a_users_data.other", "rotated-30-folder"]
    assert not any(study.outside.is_made(name) for name in names)
    assert study.outside.images(names[0])[0].shape == (3, 17, 23)
