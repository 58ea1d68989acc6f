"""A dask cluster: the results of this process, bit for bit, whatever becomes of workers and scheduler."""

import os
import re
import signal
import sys
import time
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch

from vaecore import Store, load_images
from vaecore.suite.study import cluster as module
from vaecore.suite.study.addresses import check_address
from vaecore.suite.study.cluster import Cluster
from vaecore.suite.study.executors import Here
from vaecore.suite.study.plan import Plan, WorkerDiedError
from vaecore.suite.study.setup import given
from vaecore.suite.study.study import Study, digest_tasks
from vaecore.suite.study.tasks import Given, Task

pytest.importorskip("distributed", reason="dask is not installed (uv pip install 'dask[distributed]')")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # dask warns of what it has to clean up


@pytest.fixture(scope="module", autouse=True)
def _functions_go_to_the_workers():
    """As no worker can import this module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def machines(start_machines):
    return start_machines()


@contextmanager
def joined(machines, workers=0, **settings):
    cluster = Cluster(str(machines.file), **settings)
    try:
        cluster._client.wait_for_workers(workers, timeout=60) if workers else None
        cluster.look()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache")


def process(of, **parts):
    """The process that computes, its threads; a task."""
    total = of + sum(float(part["of"].sum()) for part in parts.values())
    facts = {"of": total, "process": os.getpid(), "threads": torch.get_num_threads()}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in facts.items()}


def large(of):
    """A result that stays where it was made."""
    return {"of": torch.full((1 << 19,), float(of)), "process": torch.tensor(os.getpid())}


def stumbles(of):
    raise ArithmeticError(f"at {of}")


def dies_once(of, file):
    """Kill the worker, the first time."""
    if not Path(file).exists():
        Path(file).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return process(of)


def sleeps(of, file, seconds):
    with Path(file).open("a", encoding="utf-8") as started:
        started.write(f"{os.getpid()}\n")
    time.sleep(seconds)
    return process(of)


def interrupt():
    raise KeyboardInterrupt


def acting_once(file, act):
    """A meter that acts once a task has made a file."""

    @contextmanager
    def meter(_):
        yield lambda _: act() if file.exists() else None

    return meter


def tasks(function, places, **arguments):
    inputs = {name: value for name, value in arguments.items() if isinstance(value, Task | Given)}
    plain = {name: value for name, value in arguments.items() if name not in inputs}
    return [Task(function, {"of": place, **plain}, inputs, "draws", "numbers") for place in places]


# What it gives


def test_results_are_those_of_one_process_bit_for_bit(check_results_of):
    cluster = Cluster("local:2")
    check_results_of(cluster)
    cluster.close()


def test_workers_of_one_thread_compute_and_this_process_keeps(machines, store):
    for _ in range(2):
        machines.worker()
    with joined(machines, 2) as cluster:
        assert re.fullmatch(
            r"cluster: .*scheduler.json, 2 workers; dashboard: http://127.0.0.1:\d+/status", cluster.place
        )
        plan = Plan(store, cluster)
        results = plan.results(tasks(process, range(12)))
        assert [float(result["of"]) for result in results] == [*range(12)]
        assert {int(result["process"]) for result in results} == {one.pid for one in machines.workers}
        assert {int(result["threads"]) for result in results} == {1}
        assert re.fullmatch(r"2 workers of up to \d\.\d GiB, 0 on the cluster, 0\.0 MiB received", cluster.note)
        (bad,) = tasks(stumbles, [1])
        plan.compute([bad, *tasks(process, [20])], "numbers")
        with pytest.raises(ArithmeticError, match="at 1"):
            plan.results([bad])
    assert float(Plan(store, Here()).results(tasks(process, [20]))[0]["of"]) == 20


def test_a_large_result_goes_from_worker_to_worker_and_a_large_input_to_the_cluster_once(machines, store, monkeypatch):
    for _ in range(2):
        machines.worker()
    with joined(machines, 2) as cluster:
        sent, scatter = [], cluster._client.scatter
        monkeypatch.setattr(
            cluster._client, "scatter", lambda *given, **more: sent.append(1) or scatter(*given, **more)
        )
        (made,), given = tasks(large, [3]), Given({"of": torch.ones(1 << 19)})
        results = Plan(store, cluster).results(tasks(process, range(8), made=made, given=given))
    assert [float(result["of"]) for result in results] == [4 * (1 << 19) + place for place in range(8)]
    assert sent == [1]


def test_the_scheduler_has_few_tasks_at_a_time_and_no_more_is_held_than_fits(machines, store, monkeypatch):
    machines.worker()
    monkeypatch.setattr(module, "_HELD", 5 << 20)
    with joined(machines, 1) as cluster:
        most, submit = [], cluster.submit
        monkeypatch.setattr(cluster, "submit", lambda *given: most.append(len(cluster._pending)) or submit(*given))
        Plan(store, cluster).results(tasks(large, range(8)))
        assert max(most) < cluster.slots == 3
        assert sum(size for _, size in cluster._held.values()) <= 5 << 20
        assert len(cluster._held) == 2


def brightness(of, given):
    """Of all pixels; a task that no worker has done before the other has begun one."""
    time.sleep(0.2)
    return {"of": of + given["pixels"].double().sum(), "labels": given["labels"].sum()}


@pytest.mark.parametrize(
    ("first", "second", "sends"), [("same", "same", 0), ("same", "none", 1), ("none", "none", 1), ("other", "same", 1)]
)
def test_a_data_set_is_not_sent_where_the_workers_have_it(machines, store, tmp_path, monkeypatch, first, second, sends):
    for folder, seed in (("here", 0), ("same", 0), ("other", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
        parts = {"images": pixels, "labels": np.arange(120) % 10}
        both = {f"{split}_{name}": part for split in ("train", "test") for name, part in parts.items()}
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "cifar-10.npz", **both)
    images = load_images("cifar-10", "train", tmp_path / "here")
    for folder in (first, second):
        machines.worker(VAECORE_DATA=str(tmp_path / folder))
    with joined(machines, 2) as cluster:
        sent, scatter = [], cluster._client.scatter
        monkeypatch.setattr(
            cluster._client, "scatter", lambda *given, **more: sent.append(1) or scatter(*given, **more)
        )
        results = Plan(store, cluster).results(tasks(brightness, range(8), given=given(images)))
    total = float(images.pixels.double().sum())
    assert [float(result["of"]) for result in results] == [place + total for place in range(8)]
    assert {int(result["labels"]) for result in results} == {540}
    assert len(sent) == sends


# What may go wrong


def test_a_worker_that_is_killed_has_its_task_done_elsewhere(machines, store, tmp_path):
    for _ in range(2):
        machines.worker()
    with joined(machines, 2) as cluster:
        made, given = tasks(large, [3])[0], Given({"of": torch.ones(1 << 19)})
        more = {"made": made, "given": given}
        Plan(store, cluster).results(tasks(process, range(4), **more))
        results = Plan(store, cluster).results(
            [*tasks(dies_once, [7], file=str(tmp_path / "died")), *tasks(process, range(10, 16), **more)]
        )
    assert [float(result["of"]) for result in results] == [7, *(4 * (1 << 19) + place for place in range(10, 16))]
    assert sum(one.poll() is not None for one in machines.workers) == 1


def test_where_all_workers_are_gone_a_run_waits_says_so_and_goes_on(machines, store, tmp_path):
    machines.worker()
    said = []

    @contextmanager
    def meter(_):
        def advance(work):
            said.append(work.note)
            if "no worker" in work.note and len(machines.workers) == 1:
                machines.worker()

        yield advance

    with joined(machines, 1) as cluster:
        plan = Plan(store, cluster, meter)
        plan.results(tasks(process, range(3)))
        machines.workers[0].kill()
        results = plan.results(tasks(process, range(3, 9)))
    assert [float(result["of"]) for result in results] == [*range(3, 9)]
    assert any(
        re.match(r"no worker is left on the cluster; waiting for one, \d+ (s|min .*) more", note) for note in said
    )


def test_where_no_worker_comes_a_run_ends_with_what_is_kept(machines, store):
    machines.worker()
    with joined(machines, 1, patience=3) as cluster:
        Plan(store, cluster).results(tasks(process, range(3)))
        machines.workers[0].kill()
        with pytest.raises(
            WorkerDiedError, match=r"no worker was left on the cluster .* for 3 s; what was finished is"
        ):
            Plan(store, cluster).results(tasks(process, range(6)))
    assert [float(one["of"]) for one in Plan(store, Here()).results(tasks(process, range(3)))] == [0, 1, 2]


def test_an_idle_run_does_not_wait_for_workers(machines, store):
    machines.worker()
    with joined(machines, 1, patience=1) as cluster:
        machines.workers[0].kill()
        end = time.monotonic() + 30
        while cluster.workers:
            assert time.monotonic() < end
            time.sleep(0.1)
        time.sleep(3)
        assert cluster.note.startswith("0 workers")
        machines.worker()
        while not cluster.workers:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert len(Plan(store, cluster).results(tasks(process, range(3)))) == 3


@pytest.mark.parametrize("error", [OSError("Stream is closed"), TimeoutError("No valid workers found")])
def test_an_input_that_no_worker_takes_goes_with_its_task(machines, store, monkeypatch, error):
    def fails(*_, **__):
        raise error

    machines.worker()
    with joined(machines, 1) as cluster:
        monkeypatch.setattr(cluster._client, "scatter", fails)
        results = Plan(store, cluster).results(tasks(process, range(2), given=Given({"of": torch.ones(1 << 19)})))
    assert [float(result["of"]) for result in results] == [(1 << 19) + place for place in range(2)]


def test_an_input_that_one_task_takes_is_not_held(machines, store, monkeypatch):
    machines.worker()
    with joined(machines, 1) as cluster:
        once = Given({"of": torch.ones(1 << 19)})
        monkeypatch.setattr(Given, "once", True)
        Plan(store, cluster).results(tasks(process, [1], given=once))
        assert not cluster._held


def test_a_scheduler_that_is_lost_ends_the_run_with_what_is_kept(machines, store, tmp_path):
    machines.worker()
    started = tmp_path / "started"
    meter = acting_once(started, machines.scheduler.kill)

    with joined(machines, 1) as cluster:
        Plan(store, cluster).results(tasks(process, range(3)))
        start = time.monotonic()
        with pytest.raises(WorkerDiedError, match=r"the connection to the scheduler .* was lost; what was finished is"):
            Plan(store, cluster, meter).compute(tasks(sleeps, range(5), file=str(started), seconds=20), "numbers")
        assert time.monotonic() - start < 15
    assert [float(one["of"]) for one in Plan(store, Here()).results(tasks(process, range(3)))] == [0, 1, 2]


def test_an_interruption_cancels_what_the_cluster_has(machines, store, tmp_path):
    machines.worker()
    started = tmp_path / "started"
    meter = acting_once(started, interrupt)

    with joined(machines, 1) as cluster:
        with pytest.raises(KeyboardInterrupt):
            Plan(store, cluster, meter).compute(tasks(sleeps, range(3), file=str(started), seconds=2), "numbers")
        (result,) = Plan(store, cluster).results(tasks(process, [9]))
        assert float(result["of"]) == 9
    assert len(started.read_text().split()) == 1  # the other two were queued, and never ran


def test_workers_of_several_threads_or_of_other_code_are_refused(machines, store, monkeypatch):
    worker = machines.worker(threads=2)
    with joined(machines) as cluster:
        end = time.monotonic() + 60
        while not cluster._client.nthreads():
            assert time.monotonic() < end
            time.sleep(0.1)
        with pytest.raises(
            WorkerDiedError, match=r"must have one thread each, as results depend on it; .* has 2 \(dask"
        ):
            Plan(store, cluster).results(tasks(process, range(3)))
        with pytest.raises(ValueError, match="must have one thread each"):
            Cluster(str(machines.file))
        worker.kill()
        while cluster._client.nthreads():
            assert time.monotonic() < end
            time.sleep(0.1)
    machines.worker()
    with joined(machines) as cluster:
        monkeypatch.setattr(module, "code_digest", lambda _: "another")
        with pytest.raises(
            WorkerDiedError, match="must have this package and its libraries as they are here; one has oth"
        ):
            Plan(store, cluster).results(tasks(process, range(3)))


def test_a_gpu_task_goes_to_a_worker_that_has_the_resource(machines, store):
    machines.worker()
    with joined(machines, 1, gpu=True) as cluster:
        machines.worker("--resources", "GPU=1")
        results = Plan(store, cluster).results(tasks(process, range(4)))
        assert {int(result["process"]) for result in results} == {machines.workers[1].pid}
        assert re.fullmatch(r"1 GPU worker of up to .*", cluster.note)


def test_a_study_for_gpus_of_the_cluster_needs_none_here(machines, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machines.worker("--resources", "GPU=1")
    settings = {"device": "cuda", "cluster": str(machines.file), "profile": "smoke", "cache_dir": tmp_path / "cache"}
    with joined(machines, 1), closing(Study.make("digits", **settings)) as study:
        assert (study.facts.device, study.facts.workers, study.facts.gpu) == ("cuda", 1, None)
        assert "cuda" in {task.arguments.get("device") for task in digest_tasks(study.setup)}
        with pytest.raises(ValueError, match=r"device cuda with vae needs a CUDA GPU here, too, to check the model"):
            Study.make("digits", vae=lambda seed: None, **settings)
    with pytest.raises(ValueError, match="needs a CUDA GPU that torch can use; there is none"):
        Study.make("digits", **settings | {"cluster": None})


def environment(of):
    """The variables of a worker's process that say how it computes, and how a GPU would; a task."""
    names, settings = ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"), import_module("torch.backends.cudnn")
    values = {name: int(os.environ.get(name, "-1")) for name in names}
    values |= {"tf32": settings.allow_tf32, "repeatable": settings.deterministic}
    return {name: torch.tensor(value) for name, value in values.items()}


def test_what_is_started_here_listens_on_the_loopback_alone_and_leaves_this_process_as_it_is(store):
    variables = dict(os.environ)
    cluster = Cluster("local:1")
    try:
        assert dict(os.environ) == variables
        (there,) = Plan(store, cluster).results(tasks(environment, [0]))
        trim = int(variables.get("MALLOC_TRIM_THRESHOLD_", "-1"))
        assert there == {"OMP_NUM_THREADS": 1, "MALLOC_TRIM_THRESHOLD_": trim, "tf32": False, "repeatable": True}
        info = cluster._client.scheduler_info()
        addresses = [info["address"], *info["workers"], *(one["nanny"] for one in info["workers"].values())]
        assert len(addresses) == 3
        assert all(address.startswith("tcp://127.0.0.1:") for address in addresses)
        assert "//127.0.0.1:" in cluster.dashboard
    finally:
        cluster.close()


@pytest.mark.parametrize("text", ["local:0", "local:two", "local:", "nowhere.json", "host:8786"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=r"--cluster .*; got " + re.escape(text)):
        check_address(text)


def test_a_scheduler_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(module, "_CONNECT", 1.0)
    with pytest.raises(
        ValueError, match=r"must lead to a running scheduler; it does not: .*\(start one with `dask sch"
    ):
        Cluster("tcp://127.0.0.1:9")


def test_without_dask_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"--cluster needs dask: .* \(python -m pip install 'vaecore\[cluster\]'\)"):
        Cluster("local:1")
