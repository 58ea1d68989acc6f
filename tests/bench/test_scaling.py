"""What executors cost, as `python -m bench scaling` says it."""

import re
import sys

import pytest

from bench import __main__ as command
from bench import scaling

MIB = r"[\d,]+ MiB"
SAID = {
    "overhead": rf"2 tasks, \d+\.\d\d ms each; this process: {MIB} before, up to {MIB} then",
    "start": r"\d\.\d\d s to the first result, \d\.\d\d s to those of 2 tasks of 0.1 s",
    "waiting": r"(9 tasks, 0\.\d\d s foretold, \d\.\d\d s taken(; )?){2}",
    "computing": r"(9 tasks, 0\.\d\d s foretold, \d\.\d\d s taken(; )?){2}",
    "stream": rf"2 images in \d+ s; this process: {MIB} before, up to {MIB} then; workers: up to {MIB}",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", scaling.WHAT)
def test_what_executors_cost_is_said(what, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "_CHAINS", {"models": (2, 0.03), "attacks": (3, 0.02), "draws": (4, 0.01)})
    monkeypatch.setattr(sys, "argv", ["bench", "scaling", what, "--on", "1", "--count", "2"])
    assert command.main() == 0
    assert re.fullmatch(rf"{what}, on 1: {SAID[what]}\n", capsys.readouterr().out)


def test_chains_need_what_comes_before():
    tasks = scaling._chains(scaling.waits, 0)
    assert len({task.key for task in tasks}) == len(tasks) == sum(count for count, _ in scaling._CHAINS.values())
    models = {task.key for task in tasks if task.stage == "models"}
    assert {need.key for task in tasks if task.stage == "attacks" for need in task.needs} == models
