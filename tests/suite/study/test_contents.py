"""Objects are known by what they hold and by their code, in a file or in a notebook's cell, and by nothing else."""

import copy
import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from vaecore.suite.study.contents import contents_digest

CELL = """
import torch
from torch import nn

SCALE = 2.0

def scaled(images, by=1):
    # how
    return images * SCALE * by

class Base(nn.Module):
    power = 1

class Model(Base):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.shift = 0.5

    def forward(self, images):
        return scaled(images) ** self.power

    @property
    def rate(self):
        return 1

    @staticmethod
    def other(images):
        return [one for one in images if one in {1, 2, 3}]
"""


def cell(text=CELL, *, lines=0):
    """What a cell of a notebook defines; lines: of other cells before it."""
    names = {"__name__": "a_notebook"}
    exec(compile("\n" * lines + text, f"<cell {lines}>", "exec"), names)  # noqa: S102  # as a notebook does
    return SimpleNamespace(**names)


def changed(old, new):
    assert old in CELL
    return cell(CELL.replace(old, new)).Model()


def with_(**attributes):
    model = cell().Model()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def test_the_same_again_has_the_same_digest():
    """Made again, copied, pickled; with other comments and at another place."""
    digest = contents_digest(cell().Model())
    model = cell(CELL.replace("    # how\n", ""), lines=7).Model()
    for same in (model, copy.deepcopy(model), cloudpickle.loads(cloudpickle.dumps(model))):
        assert contents_digest(same) == digest


class Holder:
    def __init__(self):
        self.parts = [{"a": (1, 2.5, b"x", None), "b": {"c", "d"}}, np.arange(3), torch.float32, np.array(["x", None])]
        self.parts.append(self.parts[0])
        self.parts.append(functools.partial(max, key=len))
        self.parts += [self, self.__init__, torch.relu, np]


def test_what_anything_holds_is_the_same_in_another_process():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_contents as t; print(t.contents_digest(t.Holder()))"
    )
    folder = __file__.rpartition("/")[0]
    run = [
        subprocess.run(  # noqa: S603
            [sys.executable, "-c", code, folder],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert run[0].stdout == run[1].stdout
    assert len(run[0].stdout.strip()) == 32


@pytest.mark.parametrize(
    "other",
    [
        lambda: changed("** self.power", "* self.power"),
        lambda: changed("super().__init__()", "super().__init__(); self.other"),
        lambda: changed("* SCALE * by", "* SCALE + by"),
        lambda: changed("by=1", "by=2"),
        lambda: changed("SCALE = 2.0", "SCALE = 3.0"),
        lambda: changed("power = 1", "power = 2"),
        lambda: changed("return 1", "return 2"),
        lambda: changed("{1, 2, 3}", "{1, 2, 4}"),
        lambda: changed("class Model(Base)", "class Model(nn.Module)"),
        lambda: with_(shift=0.25),
        lambda: with_(more=[1]),
        lambda: with_(weight=nn.Parameter(torch.tensor([1.0, 1.0, 1.0000001]))),
        lambda: with_(forward=lambda images: images),
        lambda: with_(table=torch.ones(2)),
    ],
)
def test_whatever_changes_changes_the_digest(other):
    assert contents_digest(other()) != contents_digest(cell().Model())


def closure(value):
    return lambda images: images * value


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (closure(1), closure(2)),
        (functools.partial(closure, 1), functools.partial(closure, 2)),
        (nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())),
        ([1], [1.0]),
        ([1, [2]], [[1], 2]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),  # the order of layers
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        (np.arange(3), np.arange(3)[::-1].copy()),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2), torch.zeros(2).double()),
        (nn.Linear, nn.Conv2d),
        (cell().Model().other, cell().Model().forward),
    ],
)
def test_unlike_things_have_unlike_digests(first, second):
    assert contents_digest(first) == contents_digest(first)
    assert contents_digest(first) != contents_digest(second)


def test_a_hook_counts():
    plain, hooked = nn.ReLU(), nn.ReLU()
    hooked.register_forward_hook(lambda module, given, answer: answer * 2)
    assert contents_digest(plain) != contents_digest(hooked)
