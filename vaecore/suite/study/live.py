"""A user's model or maker that is given as an object in Python, and not by name."""

from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import nn

from vaecore.suite.study.contents import contents_digest
from vaecore.suite.study.tasks import Given, Task, remember
from vaecore.toolkit import Tensors, to_evaluation


@dataclass(frozen=True, eq=False)
class Live:
    """An object that is given for an option; a copy, which no later change to the object reaches.

    name: of its class or function. digest: of what it holds and of its code.
    """

    name: str
    value: Any = field(repr=False)
    digest: str
    _pickle: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, value: object, kind: str) -> "Live":
        """A copy of an object, for the option `kind`; raises ValueError where it can't be copied."""
        named = value if hasattr(value, "__qualname__") else type(value)
        name = str(getattr(named, "__qualname__", "")).rpartition(".")[2]
        try:
            pickle = cloudpickle.dumps(value)
            copy = cloudpickle.loads(pickle)
            if isinstance(copy, nn.Module):
                copy = to_evaluation(copy)
            return cls(name, copy, contents_digest(copy), pickle)
        except Exception as error:
            raise ValueError(
                f"{kind} must be an object that can be pickled, as processes that share the work get a copy each;"
                f" {name} raised {type(error).__name__}: {error} (one that can't: put it into a module, and give its"
                f' name, {kind}="my_module:model")'
            ) from error

    def __str__(self) -> str:
        """As messages and results name it."""
        return self.name

    @cached_property
    def task(self) -> Task:
        """The object as an input of tasks, in other processes too."""
        content = Given({"pickle": torch.from_numpy(np.frombuffer(self._pickle, np.uint8).copy())}, self.digest)
        task = Task(restored, {"name": self.name, "digest": self.digest}, {"content": content})
        remember(task, self)
        return task


def live_or_named(value: Any, kind: str) -> str | Live | None:
    """What is given for the option `kind`: a name or a file as it is, an object as a copy."""
    if value is None or isinstance(value, str):
        return value
    return str(value) if isinstance(value, PathLike) else Live.of(value, kind)


def restored(name: str, digest: str, content: Tensors) -> Live:
    """A user's object as this process takes it; a task."""
    return Live(name, cloudpickle.loads(content["pickle"].numpy().tobytes()), digest)
