"""Figures as tasks, so that workers draw them and the store keeps them until what they show changes."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from vaecore.suite.report.figures.catalogue import NOT_SHOWN, SUFFIXES, shown
from vaecore.suite.results import plain
from vaecore.suite.study.plan import Plan
from vaecore.suite.study.tasks import Given, Task
from vaecore.toolkit import Tensors


def drawn(results: Mapping[str, Any], plan: Plan) -> dict[str, bytes]:
    """The content of each file that shows these results, by file name."""
    content = json.dumps(plain({key: value for key, value in results.items() if key not in NOT_SHOWN})).encode()
    given = Given({"json": torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())})
    names = shown(results)
    arguments = {"matplotlib": version("matplotlib")}
    tasks = [Task(draw_figure, arguments | {"name": name}, {"results": given}, "figures", "figures") for name in names]
    files = zip(names, plan.results(tasks, "drawing the figures"), strict=True)
    return {f"{name}.{suffix}": of[suffix].numpy().tobytes() for name, of in files for suffix in SUFFIXES}


def draw_figure(name: str, matplotlib: str, results: Tensors) -> Tensors:  # noqa: ARG001  # another version, another key
    """The files of a figure, as bytes, by suffix; a task."""
    from vaecore.suite.report.figures.files import draw  # noqa: PLC0415  # a run whose figures are kept needs no matplotlib

    files = draw(json.loads(results["json"].numpy().tobytes()), name)
    return {
        suffix: torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()) for suffix, content in files.items()
    }
