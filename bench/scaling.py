"""What executors cost: a task's overhead, their start, memory for a stream of images, and how well `--plan` foretells.

`waiting` and `computing` are tasks that do so, of which a plan foretells the seconds. Tasks run where `--on` says: "1",
this process; "2", so many of its own; or a cluster's address, such as "local:2". docs/scaling.md has the figures.
"""

import gc
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaecore import VAE, Classifier, ClassifierConfig, Store, VAEConfig
from vaecore.suite import Study
from vaecore.suite.study.computing import executor_of
from vaecore.suite.study.executors import Executor, peak_bytes
from vaecore.suite.study.plan import Plan, silent
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Tensors, seeded

_SIDE = 28
_AT_ONCE = 10_000  # images that are written at a time
_CHAINS = {"models": (12, 0.8), "attacks": (48, 0.2), "draws": (96, 0.1)}  # of each kind: how many, their seconds
_CALIBRATED = 3  # chains that run before, so that a plan knows what they take


def overhead(where: str, count: int) -> str:
    """Milliseconds for each of so many tasks that do nothing, and what they do to the memory of this process."""
    with tempfile.TemporaryDirectory() as folder, closing(_executor(where)) as executor:
        plan = Plan(Store(folder), executor)
        plan.compute([Task(waits, {"of": -place}, {}, "draws", "first") for place in range(1, 21)], "the first")
        gc.collect()
        before, start = _peak(), time.perf_counter()
        tasks = [Task(waits, {"of": place}, {}, "draws", "nothing") for place in range(count)]
        plan.compute(tasks, "tasks that do nothing")
        each = (time.perf_counter() - start) / count
        executor.cancel()
    return f"{count:,} tasks, {1e3 * each:.2f} ms each; this process: {_mib(before)} before, up to {_mib(_peak())} then"


def start(where: str, count: int) -> str:
    """Seconds until the first result, and until all of so many tasks that wait for a tenth of a second have theirs."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with closing(_executor(where)) as executor:
            plan = Plan(Store(folder), executor)
            plan.compute([Task(waits, {"of": -1}, {}, "draws", "first")], "the first")
            first = time.perf_counter() - begin
            tasks = [Task(waits, {"of": place, "seconds": 0.1}, {}, "draws", "waiting") for place in range(count)]
            plan.compute(tasks, "tasks that wait")
            every = time.perf_counter() - begin
            executor.cancel()
    return f"{first:.2f} s to the first result, {every:.2f} s to those of {count:,} tasks of 0.1 s"


def simulation(function: Callable[..., Tensors], where: str, count: int) -> str:
    """Seconds that a plan foretells for chains of tasks, and what they take, so many times."""
    lines = []
    with tempfile.TemporaryDirectory() as folder, closing(_executor(where)) as executor:
        plan = Plan(Store(folder), executor)
        plan.compute(_chains(function, -1, max(_CALIBRATED, executor.workers)), "calibration")
        for place in range(count):
            tasks = _chains(function, place)
            foretold, begin = plan.duration(tasks, executor.workers), time.perf_counter()
            plan.compute(tasks, "chains")
            took = time.perf_counter() - begin
            lines.append(f"{len(tasks)} tasks, {foretold:.2f} s foretold, {took:.2f} s taken")
        executor.cancel()
    return "; ".join(lines)


def stream(where: str, count: int) -> str:
    """Memory that this process and workers take to score so many images, 28x28, by small untrained models."""
    with tempfile.TemporaryDirectory() as folder:
        (images := Path(folder, "images")).mkdir()
        _write(images / "all.npy", count)
        workers, cluster = _place(where)
        study = Study.make(
            "digits",
            vae=f"{__name__}:small_vae",
            classifier=f"{__name__}:small_classifier",
            profile="smoke",
            workers=workers,
            cluster=cluster,
            cache_dir=Path(folder, "cache"),
            meter=silent,
        )
        with closing(study):
            some = np.load(images / "all.npy", mmap_mode="r")[:_AT_ONCE]
            study.score(some, Path(folder, "some"))
            before, begin = _peak(), time.perf_counter()
            study.score(images, Path(folder, "scores"))
            seconds, workers_took = time.perf_counter() - begin, max(study.plan.peaks.values())
            study.plan.executor.cancel()
    return (
        f"{count:,} images in {seconds:.0f} s; this process: {_mib(before)} before, up to {_mib(_peak())} then;"
        f" workers: up to {_mib(workers_took)}"
    )


def small_vae(seed: int) -> VAE:
    """An untrained VAE."""
    with seeded(seed, torch.device("cpu")):
        return VAE(VAEConfig(latent_size=4, hidden_size=32), (_SIDE, _SIDE))


def small_classifier(seed: int) -> Classifier:
    """An untrained classifier."""
    with seeded(seed, torch.device("cpu")):
        return Classifier(ClassifierConfig(channels=(2, 4), hidden_size=16), (_SIDE, _SIDE), 10)


def _write(file: Path, count: int) -> None:
    """Write random images, as bytes, to an .npy file."""
    array = np.lib.format.open_memmap(file, "w+", np.uint8, (count, 1, _SIDE, _SIDE))
    generator = np.random.default_rng(0)
    for start in range(0, count, _AT_ONCE):
        rows = array[start : start + _AT_ONCE]
        rows[:] = generator.integers(0, 256, rows.shape, dtype=np.uint8)


def _chains(function: Callable[..., Tensors], run: int, count: int | None = None) -> list[Task]:
    """Tasks of each kind, each of which needs one of the kind before; count: of each kind, by default those above."""
    before: list[Task] = []
    every: list[Task] = []
    for stage, (number, seconds) in _CHAINS.items():
        title = f"{stage}, {function.__name__}"
        these = [
            Task(
                function,
                {"of": [run, place], "seconds": seconds},
                {"before": before[place % len(before)] if before else None},
                stage,
                title,
            )
            for place in range(count or number)
        ]
        every, before = every + these, these
    return every


def waits(of: Any, seconds: float = 0.0, before: Tensors | None = None) -> Tensors:
    """Wait; a task."""
    time.sleep(seconds)
    return _after(of, before)


def computes(of: Any, seconds: float, before: Tensors | None = None) -> Tensors:
    """Keep a core busy for so many seconds of its time; a task."""
    end, factor = time.process_time() + seconds, torch.ones(64, 64)
    while time.process_time() < end:
        factor @ factor
    return _after(of, before)


def _after(of: Any, before: Tensors | None) -> Tensors:
    return {"of": torch.tensor(of), **({} if before is None else {"before": before["of"]})}


WHAT: dict[str, tuple[Callable[[str, int], str], int]] = {
    "overhead": (overhead, 10_000),
    "start": (start, 20),
    "waiting": (partial(simulation, waits), 3),
    "computing": (partial(simulation, computes), 3),
    "stream": (stream, 100_000),
}


def _place(where: str) -> tuple[int | None, str | None]:
    """Workers of this machine, or a cluster's address."""
    return (int(where), None) if where.isdecimal() else (None, where)


def _executor(where: str) -> Executor:
    workers, cluster = _place(where)
    return executor_of(workers, torch.device("cpu"), small=False, cluster=cluster)


def _peak() -> int:
    """Bytes that this process took at most."""
    return (peak_bytes() or (0,))[0]


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
