"""Digests of values: what differs has different ones, and they stay the same from one machine and run to the next."""

import dataclasses

import pytest
import torch

from vaecore import VAEConfig
from vaecore.toolkit import digest


@dataclasses.dataclass
class Other:
    latent_size: int = 20


@dataclasses.dataclass
class Holding:
    settings: dict[str, int]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("ab", "c"), ("a", "bc")),
        ((b"ab", b"c"), (b"a", b"bc")),
        (("ab",), ("a", "b")),
        (("a", ""), ("a",)),
        ((torch.zeros(2, 3),), (torch.zeros(3, 2),)),
        ((torch.zeros(6),), (torch.zeros(2, 3),)),
        ((torch.zeros(2, dtype=torch.float32),), (torch.zeros(2, dtype=torch.int32),)),
        ((torch.tensor([0.0]),), (torch.tensor([-0.0]),)),
        ((torch.zeros(2, dtype=torch.bfloat16),), (torch.zeros(2, dtype=torch.float16),)),
        ((torch.tensor(1.0, dtype=torch.bfloat16),), (torch.tensor(2.0, dtype=torch.bfloat16),)),
        ((torch.tensor([1.0, 2.0]),), (torch.tensor([2.0, 1.0]),)),
        ((VAEConfig(),), (VAEConfig(beta=2.0),)),
        ((VAEConfig(latent_size=3),), (Other(3),)),
        ((1,), ("1",)),
        ((1,), (1.0,)),
        ((None,), (False,)),
        (({"a": 1},), ({"a": 2},)),
        ((b"a",), (b"b",)),
    ],
)
def test_digest_tells_apart(left, right):
    assert digest(*left) != digest(*right)


def test_digest_is_of_the_content_and_stable(tmp_path):
    assert digest("fgsm-0.1", 3, None, [1.5]) == "661983b70980d26a3ff5be298bbc2beb"
    assert digest(torch.tensor([[1.5, -2]])) == "1dbb423b9c239a5bb5c4d9438f584fd9"
    grid = torch.arange(6).view(2, 3)
    assert digest(grid.T) == digest(grid.T.contiguous()) != digest(grid)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(Holding({"a": 1, "b": 2})) == digest(Holding({"b": 2, "a": 1}))
    assert digest(VAEConfig()) == digest(VAEConfig(latent_size=20))
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert digest(path) == digest(b"one")
    path.write_bytes(b"two")
    assert digest(path) == digest(b"two")
    with pytest.raises(TypeError):
        digest(object())
