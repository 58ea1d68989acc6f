"""The plan: what is computed, once, in which order; failures, damage, full disks, interruptions and costs."""

import errno
import gc
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import torch

from vaecore import Store, StoreWarning
from vaecore.suite.study.executors import AgainError, Here, LostError
from vaecore.suite.study.plan import Cost, NotComputedError, Plan, WorkerDiedError
from vaecore.suite.study.tasks import Given, Task, make
from vaecore.suite.study.waiting import Waiting

CALLS = []  # what was computed, in order
LOCK = threading.Event()


@pytest.fixture(autouse=True)
def _no_calls():
    CALLS.clear()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def number(of, **parts):
    """A number and those of all parts; a task."""
    CALLS.append(of)
    return {"value": torch.tensor(float(of)) + sum(part["value"] for part in parts.values())}


def fails(of, **_):
    """A task that fails."""
    CALLS.append(of)
    raise ArithmeticError(f"at {of}")


def interrupted(of, **_):
    """A task within which Ctrl-C is pressed."""
    CALLS.append(of)
    raise KeyboardInterrupt


def task(of, function=number, stage="draws", title="numbers", **parts):
    return Task(function, {"of": of}, parts, stage, title)


def values(results):
    return [float(result["value"]) for result in results]


class Refusing(Here):
    """An executor that may not be asked."""

    def submit(self, task, needs):
        raise AssertionError(f"{task.title} must not be computed")


def test_what_is_asked_for_and_what_it_needs_is_computed_once_and_kept(store):
    steps = []

    @contextmanager
    def meter(title):
        yield lambda work: steps.append((title, work.done, work.of))

    plan = Plan(store, meter=meter)
    shared = task(1, title="shared")
    asked = [task(10, part=shared), task(20, part=shared, other=task(2)), task(10, part=shared)]
    assert values(plan.results(asked, "all")) == [11, 23, 11]
    assert sorted(CALLS) == [1, 2, 10, 20]
    assert CALLS.index(1) < CALLS.index(10)
    assert [*dict.fromkeys(steps)] == [("all", done, 4) for done in range(5)]
    assert set(plan.seconds) == {"draws"}
    again = Plan(store, Refusing())
    assert values(again.results([*asked, shared])) == [11, 23, 11, 1]
    assert again.seconds == {}


def test_the_seconds_of_tasks_are_those_of_the_run_that_computed_them(store):
    plan, needed = Plan(store), task(1)
    plan.results([task(10, part=needed), task(2, stage="scores"), task(3, stage="models")])
    again = Plan(store, Refusing())
    assert again.task_seconds() == {}
    again.results([task(10, part=needed), task(2, stage="scores")])
    seconds = again.task_seconds()
    assert seconds == pytest.approx({stage: plan.seconds[stage] for stage in ("draws", "scores")}, rel=1e-4)
    assert seconds["draws"] > float(store.header("draws", needed.key)["seconds"]) > 0  # what was needed counts
    (entry,) = store.folder.glob("scores/*.safetensors")
    entry.write_bytes(b"damaged")
    assert again.task_seconds() == {"draws": seconds["draws"]}


def test_models_start_first_and_attacks_next(store):
    early = [task(place, stage=stage) for place, stage in enumerate(("scores", "trials", "attacks", "models", "draws"))]
    Plan(store).compute(early, "")
    assert CALLS[:3] == [3, 2, 1]


def test_what_took_longest_starts_first_within_a_stage(store):
    def takes(title, seconds):
        tensors = {"value": torch.tensor(0.0)}
        store.write(
            "draws", f"{title:0>32}", tensors, seconds=seconds, notes={"title": title, "study": "", "code": "{}"}
        )

    for title, seconds in (("short", 1.0), ("long", 9.0), ("middle", 3.0)):
        takes(title, seconds)
    titles = ("short", "middle", "long", "unknown")
    early = [task(place, title=title) for place, title in enumerate(titles)]
    Plan(store).compute([*early, task(4, stage="attacks", title="short", part=early[0])], "")
    assert CALLS == [2, 1, 0, 4, 3]  # the attack as soon as what it needs is done


def test_tasks_are_given_out_in_order_once_what_they_need_is_done():
    first, second, third = task(1), task(2), task(3)
    last = task(4, a=first, b=third)
    waiting = Waiting({one.key: one for one in (first, second, third, last)})
    assert [waiting.next() for _ in range(4)] == [first, second, third, None]
    waiting.put_off(first)
    waiting.again(third)
    assert (waiting.left, waiting.next(), waiting.next()) == (3, third, None)
    waiting.look_again()
    assert waiting.next() is first
    waiting.done(first)
    assert waiting.next() is None
    waiting.done(third)
    assert (waiting.left, waiting.next(), waiting.left) == (1, last, 0)


class Losing(Here):
    """An executor that loses every task once, and looks at what it needs the second time alone."""

    def __init__(self):
        self.lost = set()

    def submit(self, task, needs):
        if task.key in self.lost:
            return super().submit(task, needs)
        self.lost.add(task.key)
        future = Future()
        future.set_exception(AgainError(task.title))
        return future


def test_what_an_executor_lost_is_submitted_again(store):
    executor = Losing()
    assert values(Plan(store, executor).results([task(10, part=task(1)), task(2)])) == [11, 2]
    assert len(executor.lost) == len(CALLS) == 3


def test_what_cannot_go_on_ends_the_plan_and_keeps_what_is_done(store):
    class Lost(Here):
        workers = slots = 3

        def submit(self, task, needs):
            if task.title != "lost":
                return super().submit(task, needs)
            future = Future()
            future.set_exception(LostError("the cluster is gone"))
            return future

    asked = [task(1, title="lost"), task(2), task(3, title="lost")]
    with pytest.raises(WorkerDiedError, match=r"^the cluster is gone; what was finished is kept, and ") as raised:
        Plan(store, Lost()).compute(asked, "")
    assert values(Plan(store, Refusing()).results([task(2)])) == [2]
    assert values(Plan(store).results(asked)) == [1, 2, 3]  # none is still locked
    assert raised.traceback  # which keeps alive what held the locks


def test_many_tasks_take_work_in_proportion(store, monkeypatch):
    monkeypatch.setattr(Plan, "_start", lambda plan, task: (None, ExitStack()))  # as if another process had done each

    def calls(count):
        many, called = [task(place) for place in range(count)], []
        assert all(one.key for one in many)
        sys.setprofile(lambda _, event, __: called.append(event) if event in ("call", "c_call") else None)
        try:
            Plan(store).compute(many, "")
        finally:
            sys.setprofile(None)
        return len(called)

    calls(10)
    assert calls(2_000) < 20 * calls(200)  # where each looked at all others, a hundred times as many


def test_what_has_no_stage_is_made_for_each_and_kept_by_nobody(store):
    made = task(5, stage="", title="made", part=task(1))
    plan = Plan(store)
    assert values(plan.results([task(10, part=made)])) == [16]
    assert float(plan.make(made)["value"]) == 6
    assert CALLS == [1, 5, 10]  # made once in a process
    assert [entry.notes["title"] for entry in store.entries()] == ["numbers"] * 2


def test_what_is_made_is_let_go_of_when_much_else_is_made():
    made = [make(task(place, stage=""), {}) for place in range(100)]
    CALLS.clear()
    assert make(task(99, stage=""), {}) is made[99]
    assert CALLS == []
    make(task(0, stage=""), {})
    assert CALLS == [0]


def test_inputs_may_be_given_tensors_tuples_or_nothing(store):
    def together(parts, nothing):
        assert nothing is None
        return {"value": sum(part["value"] for part in parts)}

    given = Given({"value": torch.tensor(7.0)})
    assert values(Plan(store).results([Task(together, {}, {"parts": (given, task(1)), "nothing": None}, "draws")])) == [
        8
    ]


# Failures


def test_a_failure_is_raised_to_whoever_asks_for_its_result_and_to_nobody_else(store):
    plan = Plan(store)
    broken = task(0, fails)
    needing = task(1, part=broken)
    plan.compute([broken, needing, task(2)], "")
    assert values(plan.results([task(2)])) == [2]
    for asked in ([broken], [task(2), needing], [broken]):
        with pytest.raises(ArithmeticError, match="at 0"):
            plan.results(asked)
    assert CALLS.count(0) == 1
    assert 1 not in CALLS
    assert sorted(entry.notes["title"] for entry in store.entries()) == ["numbers"]


@pytest.mark.parametrize("as_need", [False, True])
def test_a_damaged_entry_is_computed_again_with_one_warning(store, as_need):
    inner = task(1)
    Plan(store).results([inner])
    (file,) = (store.folder / "draws").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    asked, value = ([task(10, part=inner)], 11) if as_need else ([inner], 1)
    with pytest.warns(StoreWarning, match="a stored result is computed again") as warnings:
        assert values(Plan(store).results(asked)) == [value]
    assert len(warnings) == 1
    assert CALLS[1:] == ([1, 10] if as_need else [1])
    assert values(Plan(store, Refusing()).results([inner])) == [1]


def test_a_full_disk_costs_the_time_only(tmp_path):
    class Full(Store):
        def write(self, *_, **__):
            return False

    plan = Plan(Full(tmp_path))
    asked = [task(10, part=task(1)), task(20, part=task(1))]
    assert values(plan.results(asked)) == [11, 21]
    assert values(plan.results(asked)) == [11, 21]
    assert sorted(CALLS) == [1, 10, 20]
    assert [*tmp_path.rglob("*.safetensors")] == []


def test_without_locks_all_is_computed_with_one_warning(store, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.warns(StoreWarning, match="without locks, .*: No locks available") as warned:
        assert values(Plan(store).results([task(10, part=task(1)), task(20, part=task(1))])) == [11, 21]
    assert len(warned) == 1
    assert sorted(CALLS) == [1, 10, 20]
    assert values(Plan(store, Refusing()).results([task(1)])) == [1]


def test_a_disk_that_loses_what_it_keeps_is_an_error_and_not_a_loop(tmp_path):
    class Forgetful(Store):
        def read(self, *_):
            return None

    with pytest.raises(OSError, match="must give back what it has just kept; it does not, of numbers"):
        Plan(Forgetful(tmp_path)).results([task(1)])
    assert CALLS == [1]


# Interruptions and other processes


def is_free(store, one):
    with store.lock(one.key, blocking=False):
        return True


def test_an_interruption_leaves_no_lock_and_what_was_finished_is_kept(store):
    tasks = [task(1), task(2, interrupted), task(3)]
    with pytest.raises(KeyboardInterrupt):
        Plan(store).compute(tasks, "")
    assert CALLS == [1, 2]
    assert all(is_free(store, one) for one in tasks)
    assert values(Plan(store).results([tasks[0], tasks[2]])) == [1, 3]
    assert CALLS == [1, 2, 3]


def slow(of):
    """A task during which another process comes by; a task."""
    CALLS.append(of)
    BOTH.wait(0.05)
    return {"value": torch.tensor(float(of))}


BOTH = threading.Event()  # which is never set


def test_two_that_share_a_store_compute_each_task_once(tmp_path):
    """As two processes would, whose locks are files."""
    tasks = [task(place, slow) for place in range(8)]
    with ThreadPoolExecutor(2) as threads:
        results = [threads.submit(Plan(Store(tmp_path)).results, order) for order in (tasks, tasks)]
        assert [values(result.result()) for result in results] == [[*map(float, range(8))]] * 2
    assert sorted(CALLS) == [*range(8)]


# Plans that are only made, and costs


def test_planning_notes_what_is_asked_for_and_computes_nothing(store):
    plan = Plan(store, Refusing(), planning=True)
    first, second, third = task(1), task(2), task(3, stage="", part=task(4))
    plan.note([first])
    for ask in (lambda: plan.results([second]), lambda: plan.compute([task(5)], "five"), lambda: plan.make(third)):
        with pytest.raises(NotComputedError):
            ask()
    assert [one.arguments["of"] for one in plan.asked.values()] == [1, 2, 5, 4]
    assert CALLS == []


def test_how_long_workers_take_is_simulated_with_what_waits_for_what(store):
    def took(title, seconds, study):
        notes = {"title": title, "study": study, "code": "{}"}
        key = f"{len([*store.folder.rglob('*')]):032}"
        store.write("draws", key, {"value": torch.tensor(0.0)}, seconds=seconds, notes=notes)

    for title, seconds, study in (("training", 40.0, "other"), ("training", 4.0, "mine"), ("numbers", 1.0, "other")):
        took(title, seconds, study)
    models = [task(place, stage="models", title="training") for place in range(3)]
    asked = [task(10 * place + one, part=model) for place, model in enumerate(models, 1) for one in range(2)]
    plan = Plan(store, study="mine")
    assert plan.duration(asked, 1) == pytest.approx(3 * 4 + 6, rel=0.01)
    assert plan.duration(asked, 2) == pytest.approx(4 + 4 + 1, abs=0.05)  # the third model beside what needs the others
    assert plan.duration(asked, 3) == pytest.approx(4 + 2, rel=0.01)
    assert plan.duration(asked, 1_000) == pytest.approx(4 + 1, rel=0.01)
    many = [task(place, title="unknown") for place in range(5_000)]
    assert plan.duration(many, 1_000) == pytest.approx(5, rel=0.01)  # to hand them out
    assert CALLS == []


def test_costs_count_tasks_and_take_the_seconds_of_the_past(tmp_path):
    class Timed(Store):
        def write(self, stage, key, tensors, *, seconds, notes=None):
            return super().write(stage, key, tensors, seconds=next(clock), notes=notes)

    clock = iter([2.0, 4.0, 100.0])
    store = Timed(tmp_path)
    training = [task(place, stage="models", title="training") for place in range(5)]
    Plan(store).results(training[:3])
    asked = [
        task(10, part=training[0]),
        *(task(10 + one, part=training[one]) for one in (1, 4)),
        task(20, fails, title="x"),
    ]
    assert Plan(store).costs(asked) == [
        Cost("training", 3, 2, 4.0),  # the median of 2, 4 and 100
        Cost("numbers", 3, 0, None),
        Cost("x", 1, 0, None),
    ]
    assert Plan(store).costs(training[:2]) == [Cost("training", 2, 2, 0.0)]
    file = store.folder / "models" / f"{training[2].key}.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"seconds":"100"', b'"seconds":"1o0"'))  # a damaged header
    assert Plan(store).costs(asked)[0] == Cost("training", 3, 2, 3.0)
    assert CALLS == [0, 1, 2]


def test_others_do_not_clear_what_a_plan_asks_for(store):
    Plan(store).results([task(1), task(2)])
    plan = Plan(Store(store.folder))
    plan.compute([task(10, part=task(1))], "")
    assert [entry.key for entry in store.clear()] == [task(2).key]
    assert len(store.entries()) == 2
    del plan
    gc.collect()  # its visits of tasks are a cycle
    assert len(store.clear()) == 2
