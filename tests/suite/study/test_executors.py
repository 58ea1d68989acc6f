"""Processes: the same results as in this process, bit for bit; errors, killed workers and interruptions."""

import errno
import gc
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import cloudpickle
import pytest
import torch

from vaecore import Store
from vaecore.suite.study import computing, executors
from vaecore.suite.study.executors import Here, Processes, WorkersWarning
from vaecore.suite.study.plan import Plan, WorkerDiedError
from vaecore.suite.study.tasks import Given, OwnFunction, Task

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _functions_go_to_the_workers():
    """As no worker can import this module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


@pytest.fixture
def workers():
    """Two processes, of which a later test may take over the workers."""
    return Processes(2)


def process(of, **parts):
    """The process that computes, its threads, and what its garbage collector leaves alone; a task."""
    total = of + sum(float(part["of"].sum()) for part in parts.values())
    facts = {"of": total, "process": os.getpid(), "threads": torch.get_num_threads(), "frozen": gc.get_freeze_count()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in facts.items()}


def on_gpu():
    """How a GPU would compute; a task."""
    settings = import_module("torch.backends.cudnn")
    return {"tf32": torch.tensor(settings.allow_tf32), "repeatable": torch.tensor(settings.deterministic)}


def stumbles(of):
    raise ArithmeticError(f"at {of}")


def dies(of):
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(of, folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def tasks(function, places, **inputs):
    return [Task(function, {"of": place}, inputs, "draws", "numbers") for place in places]


def test_workers_compute_and_this_process_keeps(store, workers):
    results = Plan(store, workers).results(tasks(process, range(6)))
    assert [float(result["of"]) for result in results] == [*range(6)]
    assert os.getpid() not in {int(result["process"]) for result in results}
    assert {int(result["threads"]) for result in results} == {1}
    assert min(int(result["frozen"]) for result in results) > 0
    kept = Plan(store, Here()).results(tasks(process, range(6)))
    assert [result["process"] for result in kept] == [result["process"] for result in results]


def test_workers_start_anew_for_code_that_was_edited_and_loaded(store, workers, monkeypatch):
    before = Plan(store, workers).results(tasks(process, range(2)))
    monkeypatch.setattr(executors, "look_again", lambda: -1)
    after = Plan(store, workers).results(tasks(process, range(2, 4)))
    assert not {int(result["process"]) for result in before} & {int(result["process"]) for result in after}


def test_here_is_this_process_with_one_thread_for_the_time_of_a_task(store):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (result,) = Plan(store, Here()).results(tasks(process, [0]))
        assert (int(result["process"]), int(result["threads"]), torch.get_num_threads()) == (os.getpid(), 1, 2)
    finally:
        torch.set_num_threads(threads)


def own(images):
    return images


def test_what_takes_a_user_s_function_runs_in_this_process(store, workers):
    def called(function, **_):
        return process(0)

    (result,) = Plan(store, workers).results([Task(called, {}, {"function": OwnFunction(own)}, "own", "own")])
    assert int(result["process"]) == os.getpid()


def takes(of, size):
    """A task that takes so many bytes for a moment."""
    return {"of": torch.ones(size, dtype=torch.uint8)[:1] + of}


LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is known on Linux alone")


@LINUX
def test_the_memory_that_tasks_take_is_told_by_their_title(store, workers):
    titles = {"much": 400 << 20, "little": 1}
    for title, size in titles.items():  # so that all that takes little comes after
        Plan(store, workers).results([Task(takes, {"of": of, "size": size}, {}, "draws", title) for of in range(6)])
    (much,), (little,) = (
        Plan(store).costs([Task(takes, {"of": 0, "size": size}, {}, "draws", title)]) for title, size in titles.items()
    )
    assert little.peak > 50 << 20
    assert 380 << 20 < much.peak - little.peak < 420 << 20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="what a process took is not known here")
def test_the_memory_of_a_process_is_not_that_of_the_one_that_started_it():
    script = "from vaecore.suite.study.executors import peak_bytes; print(peak_bytes()[0])"
    started = [sys.executable, "-c", script]
    alone = int(subprocess.check_output(started))  # noqa: S603  # our own
    much = torch.ones(alone // 2)  # twice as much
    assert int(subprocess.check_output(started)) < much.nbytes  # noqa: S603


def test_workers_compute_on_a_gpu_as_exactly_as_this_process(store, workers):
    (result,) = Plan(store, workers).results([Task(on_gpu, {}, {}, "draws", "numbers")])
    assert result == {"tf32": False, "repeatable": True}


def test_an_error_in_a_worker_is_raised_to_whoever_asks(store, workers):
    plan = Plan(store, workers)
    bad = tasks(stumbles, [1])
    plan.compute(bad + tasks(process, [7, 8]), "numbers")
    with pytest.raises(ArithmeticError, match="at 1"):
        plan.results(bad)
    assert [float(result["of"]) for result in plan.results(tasks(process, [7, 8, 9]))] == [7, 8, 9]


def test_results_are_those_of_one_process_bit_for_bit(check_results_of):
    check_results_of(Processes(2))


def test_large_inputs_go_by_a_file_that_is_removed(store, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    large = Given({"of": torch.ones(1 << 19)})
    results = Plan(store, workers).results(tasks(process, range(3), large=large, small=Given({"of": torch.ones(2)})))
    assert [float(result["of"]) for result in results] == [(1 << 19) + 2 + place for place in range(3)]
    (folder,) = tmp_path.glob("vaecore-*")
    assert [path.name for path in folder.iterdir()] == [large.key]  # once for all
    workers.cancel()
    assert not folder.exists()


def test_an_input_that_one_task_takes_leaves_no_file(store, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(Given, "once", True)
    Plan(store, workers).results(tasks(process, range(2), large=Given({"of": torch.ones(1 << 19)})))
    assert not [*tmp_path.glob("vaecore-*")]


def doubled(of, sent):
    """A task that takes and gives a type that NumPy lacks."""
    return {"sum": sent["of"].double().sum(), "twice": sent["of"][: int(of)] * 2}


@pytest.mark.parametrize("count", [0, 3, 1 << 20])
def test_bfloat16_goes_to_workers_and_comes_back(store, workers, count):
    given = Given({"of": torch.arange(count).fmod(7).bfloat16().view(-1, 1), "one": torch.tensor(True)})
    (result,) = Plan(store, workers).results(tasks(doubled, [2], sent=given))
    assert (result["sum"], result["twice"].dtype) == (given.tensors["of"].double().sum(), torch.bfloat16)
    assert torch.equal(result["twice"], given.tensors["of"][:2] * 2)


def test_large_inputs_go_with_each_task_where_there_is_no_room_for_a_file(store, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    large = Given({"of": torch.ones(1 << 19)})
    results = Plan(store, workers).results(tasks(process, range(2), large=large))
    assert [float(result["of"]) for result in results] == [(1 << 19) + place for place in range(2)]


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait(store, workers):
    with pytest.raises(WorkerDiedError) as raised:
        Plan(store, workers).compute(tasks(dies, [0]) + tasks(process, range(3)), "numbers")
    message = (
        r"a process ended without a result, as when memory runs out, while it computed numbers; processes took up to"
        r" (\d+\.\d) GiB each, and this one (\d+\.\d) GiB; what was finished is kept, and the same command goes on"
        r" \(--workers 1 takes the least memory\)"
    )
    ended, this = map(float, re.fullmatch(message, str(raised.value)).groups())
    assert 0.1 < ended < 50
    assert 0.1 < this < 50
    results = Plan(store, workers).results(tasks(process, range(3)))
    assert [float(result["of"]) for result in results] == [0, 1, 2]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSYS, errno.ENOSPC])
def test_without_semaphores_this_process_computes_alone_with_one_warning(store, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("_multiprocessing.SemLock", fail)
    with pytest.warns(WorkersWarning, match=rf"computes alone: {os.strerror(number)} .*/dev/shm") as warned:
        alone = Processes(4)
    assert (len(warned), alone.workers, alone.slots) == (1, 1, 1)
    results = Plan(store, alone).results(tasks(process, range(3)))
    assert {int(result["process"]) for result in results} == {os.getpid()}


def test_without_further_processes_this_one_computes_alone_with_one_warning(store, monkeypatch):
    def fail(*_, **__):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    alone = Processes(4)
    monkeypatch.setattr("_posixsubprocess.fork_exec", fail)
    with pytest.warns(WorkersWarning, match="computes alone: Resource temporarily unavailable") as warned:
        results = Plan(store, alone).results(tasks(process, range(3)))
    assert len(warned) == 1
    assert {int(result["process"]) for result in results} == {os.getpid()}


PARENT = """
import os, sys, time
from pathlib import Path
import torch
from vaecore.suite.study.executors import Processes
from vaecore.suite.study.tasks import Given, Task

def sleeps(of, folder, large):
    Path(folder, f"{of}-{os.getpid()}").touch()
    time.sleep(3)
    return {"of": torch.tensor(of)}

if __name__ == "__main__":
    workers, large = Processes(2), Given({"of": torch.ones(1 << 19)})
    for place in range(8):
        task = Task(sleeps, {"of": place, "folder": sys.argv[1]}, {"large": large}, "draws", "sleeps")
        workers.submit(task, {large.key: lambda: large.tensors})
    time.sleep(100)
"""


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return "(zombie)" not in Path(f"/proc/{process}/status").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_a_parent_that_is_killed_and_leave_no_files(tmp_path):
    script, temporary, started = tmp_path / "parent.py", tmp_path / "tmp", tmp_path / "started"
    script.write_text(PARENT, encoding="utf-8")
    temporary.mkdir()
    started.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(started)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as parent:  # noqa: S603  # our own
        while len([*started.iterdir()]) < 2:
            assert parent.poll() is None
            time.sleep(0.05)
        parent.kill()
    workers = {int(path.name.partition("-")[2]) for path in started.iterdir()}
    end = time.monotonic() + 10
    while any(map(is_alive, workers)) or [*temporary.glob("vaecore-*")]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len([*started.iterdir()]) <= 4  # nor were the tasks that waited worked on


def test_an_interruption_ends_the_workers_at_once_and_keeps_what_was_finished(store, workers, tmp_path):
    @contextmanager
    def meter(_):
        def advance(work):
            if work.done:
                while not [*tmp_path.glob("[0-9]*")]:  # until a worker is in the task that sleeps
                    time.sleep(0.05)
                raise KeyboardInterrupt

        yield advance

    quick = tasks(process, [1])
    slow = [Task(sleeps, {"of": 2, "folder": str(tmp_path)}, {}, "draws", "sleeps")]
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt) as raised:
        Plan(store, workers, meter).compute(quick + slow, "numbers")
    assert time.monotonic() - start < 30
    (process_id,) = (int(path.name) for path in tmp_path.glob("[0-9]*"))
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
    for one in quick + slow:
        with store.lock(one.key, blocking=False):
            assert raised.traceback  # which keeps alive what holds a lock
    assert len([*store.folder.glob("*/*.safetensors")]) == 1
    assert float(Plan(store, Here()).results(quick)[0]["process"]) != os.getpid()


def test_as_many_workers_as_threads_unless_there_are_many_or_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert computing.default_workers(torch.device("cpu")) == computing.MOST_WORKERS
    assert computing.default_workers(torch.device("cuda")) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert computing.default_workers(torch.device("cpu")) == 2
