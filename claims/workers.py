"""Processes that compute what a study asks for, each with its share of the cores: shards that wait for no other.

PyTorch splits a small product among threads that then wait for one another; whole shards side by side do not.
Results come by the store, which processes share, so a worker gives nothing back.
"""

import atexit
import gc
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config

MOST = 8  # processes: each holds PyTorch and the data, about a gigabyte


def default_workers(device: torch.device) -> int:
    """One for each thread that PyTorch would use, at most MOST; a GPU is kept busy by one process."""
    return min(torch.get_num_threads(), MOST) if device.type == "cpu" else 1


def compute(study: Any, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[None]:
    """Call function(study, *call) for each call in `study.workers` processes, each with a study of its own.

    Gives None as each is finished; what it computed is in the store. An error in a worker is raised here.
    """
    blob = pickle.dumps(study.for_worker())
    # In all as many threads as this process has.
    threads = max(1, torch.get_num_threads() // study.workers)
    with parallel_config(backend="loky", n_jobs=min(study.workers, len(calls)), inner_max_num_threads=threads):
        yield from Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="all")(
            delayed(_call)(blob, function, call) for call in calls
        )


def _call(blob: bytes, function: Callable[..., Any], call: tuple[Any, ...]) -> None:
    function(_study(blob), *call)


@lru_cache(maxsize=1)
def _study(blob: bytes) -> Any:
    """The study of this process, which keeps its models and data for the next call."""
    study = pickle.loads(blob)  # noqa: S301  # written by `compute` of the same program
    # Loky collects garbage after each call, unless a second has not passed: a fifth of one with all that PyTorch keeps.
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries find their objects alive at the end, and say so
    return study
