"""The arithmetic that networks are run in is chosen, and leaves nothing behind."""

import warnings

import pytest
import torch

from vaecore.toolkit import check_precision, computing_in

CPU = torch.device("cpu")


def test_bfloat16_is_computed_in_within_and_not_after():
    left, right = torch.rand(3, 4), torch.rand(4, 5)
    for precision, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        with computing_in(precision, CPU):
            assert (left @ right).dtype == dtype
        assert (left @ right).dtype == torch.float32


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_tf32_is_switched_on_within_and_put_back(start, precision):
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]

    def within():
        with computing_in(precision, torch.device("cuda")):
            assert [backend.allow_tf32 for backend in backends] == [precision == "tf32"] * 2
            raise KeyError

    for backend in backends:
        backend.allow_tf32 = start
    with pytest.raises(KeyError):
        within()
    assert [backend.allow_tf32 for backend in backends] == [start, start]
    for backend, was in zip(backends, before, strict=True):
        backend.allow_tf32 = was


@pytest.mark.parametrize(
    ("has", "slow"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_bf16": True}, False),
        ({"architecture": "x86_64", "amx_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_a_processor_that_is_slow_at_bfloat16_is_told_of(monkeypatch, has, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_precision("bfloat16", CPU)
        check_precision("float32", CPU)
        check_precision("bfloat16", torch.device("cuda"))
    assert ["use 'float32'" in str(one.message) for one in said] == [True] * slow


def test_a_precision_that_is_not_to_be_had_is_refused():
    with pytest.raises(ValueError, match="precision must be 'float32', 'tf32' or 'bfloat16'; got 'half'"):
        check_precision("half", CPU)
    with pytest.raises(ValueError, match="precision 'tf32' takes a CUDA GPU; the images are on the cpu"):
        check_precision("tf32", CPU)
    check_precision("tf32", torch.device("cuda"))
