"""A number of a user's own for each run and image."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaecore import Autoencoder
from vaecore.suite.statistics.columns import NOWHERE, Column
from vaecore.suite.study.conditions import CLEAN
from vaecore.suite.study.models import Run
from vaecore.suite.study.plan import Plan
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tasks import OwnFunction, Task
from vaecore.toolkit import Classify, Tensors


@dataclass(frozen=True)
class Shard:
    """Some test images: pixels (n, c, h, w), labels (n,), indices in the data set (n,), and the seed of the run."""

    pixels: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    indices: Tensor = field(repr=False)
    seed: int


def each_image(
    setup: Setup, plan: Plan, function: Callable[..., Tensor], images: int | None, settings: Mapping[str, Any]
) -> Column:
    """See `Study.each_image`."""
    name = function.__qualname__
    if not name.isidentifier():
        raise ValueError(
            f"the function must be a module's or a notebook's own, to be known again; got {name} (what it would take"
            " from around it are settings: each_image(function, sigma=0.3))"
        )
    count = setup.count(CLEAN) if images is None else images
    if not 1 <= count <= len(setup.indices):
        raise ValueError(f"images must be from 1 to {len(setup.indices)}, those that are looked at; got {count}")
    tasks = [
        Task(
            _of_shard,
            {"settings": dict(settings), "seed": seed, "device": str(setup.device)},
            {
                "function": OwnFunction(function),
                "shard": setup.shard(rows),
                "vae": setup.model("vae", number),
                "classifier": setup.model("classifier", number),
            },
            "own",
            name,
        )
        for number, seed in enumerate(setup.seeds)
        for rows in setup.shards(count)
    ]
    plan.note(tasks)
    values = torch.cat([result["values"] for result in plan.results(tasks)])
    return Column(values.view(-1, count).double().numpy(), NOWHERE)


def _of_shard(
    settings: dict[str, Any],
    seed: int,
    device: str,
    function: Callable[..., Tensor],
    shard: Tensors,
    vae: Autoencoder,
    classifier: Classify,
) -> Tensors:
    # Copies, as the function may write into them.
    rows = Shard(**{name: value.to(device, copy=True) for name, value in shard.items()}, seed=seed)
    values = function(Run(seed, vae, classifier), rows, **settings)
    if getattr(values, "shape", None) != rows.indices.shape:
        got = tuple(values.shape) if hasattr(values, "shape") else type(values).__name__
        raise ValueError(f"each image must get one number, in a tensor ({len(rows.indices)},); got {got}")
    return {"values": values.detach().cpu()}
