"""Where a study computes: here, in processes of this machine, or on a cluster."""

from typing import cast

import torch

from vaecore.suite.study.cluster import Cluster
from vaecore.suite.study.executors import Executor, Here, Processes

MOST_WORKERS = 8  # processes: each holds PyTorch and models, about a gigabyte


def default_workers(device: torch.device) -> int:
    """One for each thread that PyTorch would use, at most MOST_WORKERS. One process keeps a GPU busy."""
    return min(torch.get_num_threads(), MOST_WORKERS) if device.type == "cpu" else 1


def executor_of(
    workers: int | None,
    device: torch.device,
    *,
    small: bool,
    cluster: str | None = None,
    report: str | None = None,
) -> Executor:
    """Where a study computes; workers: None for one process where it is small, else one for each core.

    cluster, report: see `Cluster`. Raises ValueError for workers below 1, and for a cluster that cannot be used.
    """
    if cluster is not None:
        return Cluster(cluster, gpu=device.type == "cuda", report=report)
    if workers is None:
        workers = 1 if small else default_workers(device)
    if not isinstance(cast(object, workers), int) or workers < 1:
        raise ValueError(f"--workers must be 1 or more; got {workers!r}")
    return Processes(workers) if workers > 1 else Here()
