"""Processes that compute what a study asks for, each with its share of the cores: shards that wait for no other.

PyTorch splits a small product among threads that then wait for one another; whole shards side by side do not.
Results come by the store, which processes share, so a worker gives nothing back.
"""

import atexit
import gc
import pickle
from collections.abc import Callable, Iterator, Sequence
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


_known: list[tuple[bytes, Any]] = []  # the study of this process, which keeps its models and data for the next call


def _study(blob: bytes) -> Any:
    """The study that was pickled; the one before it, with all that it holds, is let go."""
    if not _known or _known[0][0] != blob:
        _known.clear()
        gc.unfreeze()
        _known.append((blob, pickle.loads(blob)))  # noqa: S301  # written by `compute` of the same program
        # Loky collects garbage after each call, unless a second has not passed, and looks at all that PyTorch keeps:
        # for a fifth of a second, were it not frozen.
        gc.collect()
        gc.freeze()
    return _known[0][1]


atexit.register(gc.unfreeze)  # libraries that find their objects alive at the end say so
