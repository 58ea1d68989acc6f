"""Does the cache tell what computed an entry, and whether the installed code can still use it?"""

import json
from dataclasses import replace

import pytest
import torch

from vaecore import Store
from vaecore.suite.study import cleaning, entries, perturbations, sources
from vaecore.suite.study.entries import UNKNOWN, code_of, is_stale, study_of
from vaecore.suite.study.plan import Plan
from vaecore.suite.study.tasks import Given, OwnFunction, Task

ROOM = "vaecore.suite.study"


def zeros(**_):
    """What a module of the package computes, for this test."""
    return {"x": torch.zeros(1)}


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """Give the entry of a task of one module, whose input is made by a task of another."""
    monkeypatch.setattr(zeros, "__module__", cleaning.__name__)
    inner = Task(perturbations.perturb, {}, {"given": Given({"x": torch.zeros(1)}), "own": OwnFunction(code_of)})
    task = Task(zeros, {}, {"parts": (None, (Task(zeros, {"of": 1}, {}, "s"),))}, "s", "zeros")
    store = Store(tmp_path)
    assert code_of(replace(task, inputs={**task.inputs, "inner": inner})).keys() == {
        f"{ROOM}.cleaning",
        f"{ROOM}.perturbations",
    }
    Plan(store, study="mine.npz").results([task])
    return next(one for one in store.entries() if one.key == task.key)


def test_an_entry_says_what_computed_it(entry):
    assert study_of(entry) == "mine.npz"
    assert json.loads(entry.notes["code"]) == {f"{ROOM}.cleaning": sources.code_digest(cleaning.judge_attacks)}


def test_what_the_code_can_use_is_not_stale(entry):
    assert not is_stale(entry)


@pytest.mark.parametrize(
    "changes",
    [
        {f"{ROOM}.cleaning": "another digest"},
        {f"{ROOM}.perturbations": "another digest"},  # of what made its input
        {f"{ROOM}.gone": "a digest"},
        {"vaecore_gone.module": "a digest"},
    ],
)
def test_what_other_code_made_is_stale(entry, changes):
    code = json.dumps(json.loads(entry.notes["code"]) | changes)
    assert is_stale(replace(entry, notes={**entry.notes, "code": code}))


@pytest.fixture
def other_torch(monkeypatch):
    """Have another version of torch installed."""
    real, kept = sources.version_of, (sources.digest_of, entries._digest)
    monkeypatch.setattr(sources, "version_of", lambda library: "0" if library == "torch" else real(library))
    for function in kept:
        function.cache_clear()
    yield
    for function in kept:
        function.cache_clear()


def test_what_other_versions_of_libraries_made_is_stale(entry, other_torch):
    assert is_stale(entry)


def test_a_damaged_entry_is_stale_and_one_that_says_nothing_is_not(entry):
    assert is_stale(replace(entry, notes=None))
    for notes in ({}, {"code": "{}"}, {"code": "{"}, {"study": ""}):
        older = replace(entry, notes=notes)
        assert not is_stale(older)
        assert study_of(older) == UNKNOWN
