"""Which sets outside there are, which are left out and why, and which images are taken of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vaecore import OUTSIDE_MADE, Images, Store
from vaecore.suite.study import sets
from vaecore.suite.study.conditions import INSIDE, OUTSIDE
from vaecore.suite.study.outside import SCORES
from vaecore.suite.study.sets import Sets
from vaecore.suite.study.study import Study
from vaecore.toolkit import TORCHVISION, is_made

MADE = [name for name in OUTSIDE_MADE if name not in sets.FOR_COLOUR]


def of(size, root, asked=(), name="mine", channels=1):
    """The sets beside a data set of images of this size."""
    test = Images(torch.full((4, channels, *size), 0.5), None, name, "test")
    return Sets(test, torch.arange(4), 4, str(root), tuple(map(str, asked)))


def in_colour(root, name="cifar-10"):
    """The sets beside a data set of CIFAR's size."""
    return of((32, 32), root, name=name, channels=3)


def a_file(path, size=(8, 8), count=3):
    """A set of random images."""
    path.parent.mkdir(exist_ok=True)
    np.savez(path, images=np.random.default_rng(1).integers(0, 256, (count, *size), np.uint8))
    return path


def test_made_sets_are_there_for_any_images(tmp_path):
    assert [*of((8, 8), tmp_path).sources] == MADE
    assert [*of((12, 8), tmp_path).sources] == MADE
    assert [*of((9, 8), tmp_path).sources] == [name for name in MADE if name != "shuffled-patches"]
    assert [*of((8, 8), tmp_path, ["texture"]).sources] == [*MADE, "texture"]
    assert [*of((8, 8), tmp_path, channels=3).sources] == [*OUTSIDE_MADE]


def test_sets_in_colour_join_images_in_colour_and_no_others(tmp_path):
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    pixels[:, 0] = 255
    for name in ("cifar-10-subset", "svhn"):
        np.savez(tmp_path / f"{name}.npz", test_images=pixels, test_labels=np.arange(3))
    a_file(tmp_path / "ood" / "kmnist-test.npz", (28, 28))
    a_file(tmp_path / "ood" / "photographs.npz", (32, 32, 3))
    beside = in_colour(tmp_path)
    assert [*beside.sources] == [*OUTSIDE_MADE, "svhn", "photographs.npz"]
    assert len(beside.images(beside.condition("svhn"))[0]) == 2  # the third is kept for pilots
    assert beside.left_out == {"letters, kmnist-test.npz": "28x28 in grey, where cifar-10 is 32x32 in colour"}
    grey = of((28, 28), tmp_path, name="mnist")
    assert [*grey.sources] == [*MADE, "letters", "kmnist-test.npz"]
    assert grey.left_out == {"cifar-10, svhn, photographs.npz": "32x32 in colour, where mnist is 28x28 in grey"}
    for inside, asked in ((grey, "svhn"), (beside, "kmnist")):
        with pytest.raises(ValueError, match="the set outside must have images like"):
            _ = replace(inside, asked=(asked,)).sources


def test_letters_and_files_at_hand_join_images_of_mnist_s_size(tmp_path):
    for name in ("kmnist-test", "other"):
        a_file(tmp_path / "ood" / f"{name}.npz", (28, 28))
    beside = of((28, 28), tmp_path)
    assert [*beside.sources] == [*MADE, "letters", "kmnist-test.npz", "other.npz"]
    assert beside.find("kmnist") == "kmnist-test.npz"
    assert beside.find("other") == "other.npz"
    assert beside.find("letters") == "letters"
    assert "letters" not in of((28, 28), tmp_path, name="letters").sources


def test_what_is_asked_for_is_there_under_its_name(tmp_path):
    path = a_file(tmp_path / "other.npz")
    assert [*of((8, 8), tmp_path, ["rotated-45", path, "rotated-45"]).sources] == [*MADE, "rotated-45", "other.npz"]


def test_files_at_hand_that_do_not_fit_are_left_out_with_a_reason(tmp_path, tiny):
    a_file(tmp_path / "ood" / "fits.npz")
    a_file(tmp_path / "ood" / "large.npz", (9, 9))
    (tmp_path / "ood" / "broken.npz").write_bytes(b"not a file of arrays")
    beside = of((8, 8), tmp_path)
    assert [*beside.sources] == [*MADE, "fits.npz"]
    assert set(beside.left_out) == {"letters", "large.npz", "broken.npz"}
    assert beside.left_out["letters"] == "28x28 in grey, where mine is 8x8 in grey"
    assert "9x9" in beside.left_out["large.npz"]
    setup = replace(tiny.setup, dataset=replace(tiny.setup.dataset, root=str(tmp_path)))
    setup.check()
    assert set(Study.of(setup, tiny.plan.store).facts.left_out) == set(beside.left_out)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["mine.npz"], "mine.npz"),  # the inside set itself
        (["a/x.npz", "b/x.npz"], "two x.npz"),
        (["large.npz"], "9x9"),
        (["dimmed-2"], "below 1"),
    ],
)
def test_what_cannot_be_compared_is_refused_where_it_is_asked_for(tmp_path, asked, message):
    for name, size in (("mine", (8, 8)), ("a/x", (8, 8)), ("b/x", (8, 8)), ("large", (9, 9))):
        a_file(tmp_path / f"{name}.npz", size)
    paths = [tmp_path / one if one.endswith(".npz") else one for one in asked]
    with pytest.raises(ValueError, match=message):
        _ = of((8, 8), tmp_path, paths, name="mine.npz").sources


def test_a_file_is_no_made_set_whatever_its_name(tmp_path, tiny):
    file = a_file(tmp_path / "rotated-mine.npz", count=40)
    study = Study.of(replace(tiny.setup, ood=(str(file),)), Store(tmp_path / "cache"))
    condition = study.outside.condition("rotated-mine")
    assert not is_made(condition.label)
    assert len(study.outside.images(condition)[0]) == 12
    assert study.table(condition, of=SCORES)["mse"].shape == (2, 12)


def test_what_was_asked_for_goes_before_what_is_at_hand(tmp_path):
    a_file(tmp_path / "ood" / "kmnist.npz")
    mine = a_file(tmp_path / "mine" / "kmnist-of-mine.npz")
    assert of((8, 8), tmp_path).find("kmnist") == "kmnist.npz"
    assert of((8, 8), tmp_path, [mine]).find("kmnist") == "kmnist-of-mine.npz"


def test_a_set_that_is_not_at_hand_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sets, "probe", lambda _: False)
    beside = of((28, 28), tmp_path)
    assert beside.find("kmnist") is None
    assert beside.lacks("kmnist") == "takes images of kmnist, which are not at hand (--ood path/to/kmnist.npz)"
    assert beside.lacks("letters") == beside.lacks("") == ""
    assert beside.condition("letters") == OUTSIDE(label="letters")
    with pytest.raises(ValueError, match="takes images of kmnist, which are not at hand"):
        beside.condition("kmnist")


def test_a_set_of_torchvision_s_is_fetched_where_its_server_answers(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sets, "probe", lambda name: asked.append(name) or True)
    monkeypatch.setattr(sets, "outside", lambda source, *_, **__: source)
    beside = of((28, 28), tmp_path)
    assert beside.find("kmnist") == beside.find("kmnist") == "kmnist"
    assert OUTSIDE(label="kmnist") in beside.conditions
    assert beside.find("notmnist") is None  # torchvision has none
    assert sorted(asked) == ["fashion-mnist", "kmnist", "mnist"]  # each once, all at the same time
    assert of((8, 8), tmp_path).find("kmnist") is None  # it would not fit
    assert of((28, 28), tmp_path, name="kmnist").find("kmnist") is None


def test_a_large_set_is_downloaded_only_by_name(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sets, "probe", lambda name: asked.append(name) or True)
    for beside, name in ((in_colour(tmp_path), "svhn"), (of((28, 28), tmp_path, name="mnist"), "emnist-letters")):
        assert TORCHVISION[name].large
        assert beside.find(name) is None
        assert beside.lacks(name).endswith(f"(--ood {name} downloads it, or --ood path/to/{name}.npz)")
    assert "svhn" not in asked
    assert in_colour(tmp_path).lacks("kmnist").endswith("at hand as 32x32 in colour (--ood path/to/kmnist.npz)")


def test_a_download_that_fails_after_all_is_a_set_that_is_not_at_hand(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("the connection was reset")

    beside = of((28, 28), tmp_path)
    assert "letters" in beside.sources
    monkeypatch.setattr(sets, "probe", lambda _: True)
    monkeypatch.setattr(sets, "outside", broken)
    assert beside.find("kmnist") is None
    assert beside.left_out["kmnist"] == "the connection was reset"
    assert "kmnist" not in beside.sources


def test_a_set_asked_for_is_looked_at_before_anything_is_computed(tiny):
    with pytest.raises(ValueError, match="nosuch"):
        replace(tiny.setup, ood=("nosuch",)).check()
    replace(tiny.setup, ood=("rotated-45",)).check()


@pytest.mark.parametrize(
    ("inside", "groups"),
    [
        (
            "mnist",
            {"kmnist-test.npz": "near", "omniglot.npz": "near", "letters": "near", "fashion-mnist-900.npz": "far"},
        ),
        ("fashion-mnist", {"kmnist-test.npz": "far", "letters": "far"}),
        ("mine", {"kmnist-test.npz": "own", "dimmed-0.5": "covariate shift"}),
        ("mnist", {"other.npz": "own", "mirrored": "covariate shift", "rotated-45": "covariate shift"}),
        ("mnist", {"inverted": "covariate shift", "dimmed-0.3": "covariate shift"}),
        ("cifar-10", {"cifar-100": "near", "cifar-100-few.npz": "near", "svhn": "far", "kmnist.npz": "far"}),
        ("cifar-10", {"blank": "far", "texture": "far", "inverted": "covariate shift", "photographs.npz": "own"}),
        ("svhn", {"cifar-10-subset.npz": "far", "mnist.npz": "far"}),
        ("mnist", dict.fromkeys(("permuted", "shuffled-patches", "uniform-noise", "gaussian-noise"), "far")),
    ],
)
def test_sets_stand_in_groups(tmp_path, inside, groups):
    beside = of((28, 28), tmp_path, name=inside)
    assert {name: beside.group(OUTSIDE(label=name)) for name in groups} == groups


def test_pilots_judge_another_vae_by_other_images_that_it_has_not_seen(tmp_path):
    path = a_file(tmp_path / "other.npz", count=50)
    beside = of((8, 8), tmp_path, [path])
    beside.most = 50
    whole, unseen, judged = beside.parted(OUTSIDE(label="other.npz"))
    _, also_unseen, of_pilot = replace(beside, pilot=True).parted(OUTSIDE(label="other.npz"))
    assert torch.equal(unseen, also_unseen)
    assert sorted(unseen.tolist()) == sorted([*judged.tolist(), *of_pilot.tolist()])
    assert (len(whole), len(judged), len(of_pilot)) == (50, 10, 10)
    a_file(path, count=9)
    with pytest.raises(ValueError, match=r"must have 10 images or more; other\.npz has 9"):
        of((8, 8), tmp_path, [path]).parted(OUTSIDE(label="other.npz"))


# Which images


def test_images_of_made_sets_are_made_of_the_study_s_images(tiny):
    inside, indices = tiny.outside.images(INSIDE)
    assert torch.equal(inside.pixels, tiny.setup.test.pixels[tiny.setup.indices])
    mirrored, same = tiny.outside.images(OUTSIDE(label="mirrored"))
    assert torch.equal(mirrored.pixels, inside.pixels.flip(3))
    assert torch.equal(same, indices)


def test_of_a_loaded_set_a_random_part_is_taken(tiny, tmp_path):
    images = np.arange(100, dtype=np.float32).reshape(-1, 1, 1).repeat(8, 1).repeat(8, 2) / 100
    np.savez(tmp_path / "steps.npz", images=images)
    beside = replace(tiny.setup, ood=(str(tmp_path / "steps.npz"),)).sets
    part, indices = beside.images(beside.condition("steps"))
    assert len(part) == len(indices.unique()) == 12
    assert torch.equal(part.pixels[:, 0, 0, 0], torch.from_numpy(images[:, 0, 0])[indices])
    assert indices.tolist() != sorted(indices.tolist())
    shard = beside.shard(beside.condition("steps"), 3, 5).tensors
    assert torch.equal(shard["pixels"], part.pixels[3:5])
    assert torch.equal(shard["indices"], indices[3:5])
