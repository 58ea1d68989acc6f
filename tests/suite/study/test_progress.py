"""Does a log show life, and a short piece of work nothing?"""

import time

import pytest

from vaecore.suite.study import progress
from vaecore.suite.study.plan import Work
from vaecore.suite.study.progress import lines
from vaecore.suite.text import duration


@pytest.fixture
def written(monkeypatch):
    """Lines that are written, with short waits."""
    monkeypatch.setattr(progress, "FIRST", 0.2)
    monkeypatch.setattr(progress, "EACH", 0.2)
    return []


def test_work_that_is_done_at_once_says_nothing(written):
    with lines("all", written.append) as advance:
        advance(Work(3, 3, "models", 0.0))
    time.sleep(0.5)
    assert written == []


def test_a_task_that_takes_long_is_told_again_and_again(written):
    with lines("all", written.append) as advance:
        advance(Work(0, 3, "models", 130.0))
        time.sleep(1.0)
    assert len(written) >= 3
    assert {line.partition("; about")[0] for line in written} == {"all: 0 of 3 tasks, models"}
    assert all("; about 2 min 10 s left; " in line for line in written)


def test_a_new_stage_is_told_at_once_and_where_nothing_is_known_no_time_is_left(written, monkeypatch):
    monkeypatch.setattr(progress, "EACH", 60.0)
    with lines("all", written.append) as advance:
        advance(Work(0, 3, "models", None))
        time.sleep(0.3)
        for stage in ("models", "draws", "draws"):
            advance(Work(1, 3, stage, None))
        advance(Work(3, 3, "draws", 0.0))
    told = [line.rpartition("; ")[0] for line in written]
    assert told == ["all: 0 of 3 tasks, models", "all: 1 of 3 tasks, draws", "all: 3 of 3 tasks, draws"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (3900, "1 h 5 min")],
)
def test_a_duration_in_words(seconds, words):
    assert duration(seconds) == words
