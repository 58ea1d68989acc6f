"""Tasks: pure functions of their arguments and of other tasks' results, each under a key of all that it depends on."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from vaecore.suite.study.contents import contents_digest
from vaecore.suite.study.sources import code_digest, look_again
from vaecore.toolkit import Tensors, digest

_ALIGNMENT = 64  # bytes
_REMEMBERED = 32  # models and images that a process keeps for its next tasks


@dataclass(frozen=True, eq=False)
class Given:
    """Tensors that are given from the start, such as images. In another process it is a key alone.

    content: a digest of them, where one has been computed already. named: name and split of the set that they may be,
    which another machine may have. once: whether one task alone takes them.
    """

    once: ClassVar[bool] = False

    tensors: Tensors = field(repr=False)
    content: str = ""
    named: tuple[str, str] | None = None

    @cached_property
    def key(self) -> str:
        """Digest of names and content."""
        if self.content:
            return digest("given", self.content, sorted(self.tensors))
        return digest("given", *(part for name, value in sorted(self.tensors.items()) for part in (name, value)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the tensors: an executor sends these by their key."""
        return _Reference, (self.key,)


@dataclass(frozen=True)
class _Reference:
    key: str


@dataclass(frozen=True, eq=False)
class OwnFunction:
    """A user's function as an input; tasks that have one run in the process that asks for them."""

    function: Callable[..., Any]

    @cached_property
    def key(self) -> str:
        """Digest of the function's code and of all that it imports."""
        look_again()
        file = getattr(getattr(self.function, "__code__", None), "co_filename", "")
        code = code_digest if Path(file).is_file() else contents_digest  # of a notebook's cell
        return digest(self.function.__qualname__, code(self.function))


@dataclass(frozen=True, eq=False)
class Task:
    """A call of a module's function, whose result follows from its arguments and inputs alone.

    function: called as function(**arguments, **inputs) with the inputs' results. arguments: plain values. inputs: other
    tasks, given tensors, a user's function, tuples of these, or None. stage: where the store keeps the result, a dict
    of tensors; empty for what is made wherever it is needed, which may be any object. title: for progress and costs.
    """

    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    stage: str = ""
    title: str = ""

    @cached_property
    def key(self) -> str:
        """Digest of the function's code, of the arguments, and of the inputs' keys."""
        name = f"{self.function.__module__}.{self.function.__qualname__}"
        keys = [[name, _keys(value)] for name, value in sorted(self.inputs.items())]
        arguments = [part for name, value in sorted(self.arguments.items()) for part in (name, value)]
        return digest(name, *arguments, keys, code_digest(self.function))

    @cached_property
    def needs(self) -> tuple["Task | Given", ...]:
        """The stored results and given tensors that must be there before it can run."""
        needs: dict[str, Task | Given] = {}
        for value in _flat(self.inputs.values()):
            if isinstance(value, OwnFunction):
                continue
            if isinstance(value, Task) and not value.stage:
                needs |= {need.key: need for need in value.needs}
            else:
                needs[value.key] = value
        return tuple(needs.values())

    @property
    def local(self) -> bool:
        """Whether it must run in this process."""
        return any(isinstance(value, OwnFunction) for value in _flat(self.inputs.values()))


Results: TypeAlias = Mapping[str, Tensors]  # by the keys of tasks and given tensors


def run(task: Task, results: Results) -> Any:
    """The result of a task; results: of all that it needs."""
    return task.function(**task.arguments, **{name: _value(of, results) for name, of in task.inputs.items()})


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, a CPU computes with one thread, so that rounding does not depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_made: OrderedDict[str, Any] = OrderedDict()  # the latest results of tasks without a stage, by key


def make(task: Task, results: Results) -> Any:
    """The result of a task without a stage, made in this process; results: of all that it needs."""
    return _value(task, results)


def remember(task: Task, result: Any) -> None:
    """Keep the result of a task without a stage, which was made in another way, for this process."""
    _made[task.key] = result
    if len(_made) > _REMEMBERED:
        _made.popitem(last=False)


def _value(of: Any, results: Results) -> Any:
    if of is None:
        return None
    if isinstance(of, OwnFunction):
        return of.function
    if isinstance(of, tuple):
        return tuple(_value(part, results) for part in of)
    if not isinstance(of, Task) or of.stage:
        return {name: _aligned(value) for name, value in results[of.key].items()}
    if of.key not in _made:
        remember(of, run(of, results))
    _made.move_to_end(of.key)
    return _made[of.key]


def _aligned(value: Tensor) -> Tensor:
    """The tensor as torch itself lays it out: how a product is rounded depends on where its factors start in memory."""
    value = value.contiguous()
    return value if value.data_ptr() % _ALIGNMENT == 0 else value.clone()


def _keys(value: Any) -> Any:
    if value is None:
        return None
    return [_keys(part) for part in value] if isinstance(value, tuple) else value.key


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        elif value is not None:
            yield value
