"""The torch modules that a user's model calls, as far as can be seen from outside."""

import dis
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from inspect import getattr_static
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

_METHODS = ("forward", "__call__", "encode", "decode", "decode_logits", "log_density")  # by which a model is called
_OF_ANY_MODULE = {*vars(nn.Module())}
_FROM_OUTSIDE = {"LOAD_GLOBAL", "LOAD_DEREF"}
_OF_IT = {"LOAD_ATTR", "LOAD_METHOD"}
_WHOLE = ("torch", "torchvision")  # whose modules know all their parts
_MOST = 100  # values in a list or mapping of models; longer ones are data


def is_exported(module: nn.Module) -> bool:
    """Whether torch.export has made a module: it has one mode alone, of which its flags say nothing, and no `eval`."""
    return isinstance(module, torch.fx.GraphModule) and "eval" in vars(module)


def own_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The module and its parts, but for exported ones."""
    if not is_exported(module):
        yield module
        for child in module.children():
            yield from own_parts(child)


def modules_of(model: object) -> Iterator[nn.Module]:
    """The torch modules that a model calls, the outermost first, without exported ones.

    They are looked for in the parts and attributes of a module or another object, in what a function captures or takes
    from its file, in the object of a bound method, and in the arguments of a `functools.partial`.
    """
    seen: dict[int, object] = {}  # by id; the object is kept, so that no other gets its id
    waiting: deque[Any] = deque([model])
    while waiting:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        kind: Any = type(value)  # to mypy, classes with a metaclass are not hashable
        if isinstance(value, nn.Module):
            if is_exported(value):
                continue
            yield value
            waiting += value.children()
            if _package(kind) not in _WHOLE:
                waiting += [each for name, each in vars(value).items() if name not in _OF_ANY_MODULE]
                waiting += _methods(kind)
        elif isinstance(value, partial):
            waiting += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, MethodType):
            waiting += [value.__self__, value.__func__]
        elif isinstance(value, FunctionType):
            waiting += _taken(value)
        elif isinstance(value, list | tuple | Mapping) and len(value) <= _MOST:
            waiting += value.values() if isinstance(value, Mapping) else value
        elif (value is model or callable(value) or hasattr(value, "encode")) and not isinstance(
            value, type | ModuleType | str
        ):
            waiting += [*getattr(value, "__dict__", {}).values(), *_methods(kind)]


@lru_cache(maxsize=1024)
def _methods(kind: type) -> list[FunctionType]:
    """The functions by which objects of a class are called, unless a library defines them."""
    functions = [getattr(kind, name, None) for name in _METHODS]
    return [each for each in functions if isinstance(each, FunctionType) and _package(each) not in (*_WHOLE, "vaecore")]


def _package(thing: type | FunctionType) -> str:
    return (thing.__module__ or "").partition(".")[0]


def _taken(function: FunctionType) -> list[object]:
    """What a function has from outside: attributes, defaults, and the modules and functions that its code names.

    Of `self.net(images)` it is the net, as the rest of `self` may be in another mode.
    """
    captured = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            captured[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    found: list[Any] = [*vars(function).values(), *(function.__defaults__ or ())]
    found += (function.__kwdefaults__ or {}).values()
    for name, *attributes in _names(function.__code__):
        is_global = name not in captured
        value: Any = captured.get(name, function.__globals__.get(name))
        for attribute in attributes:
            if isinstance(value, ModuleType | None):
                break
            is_computed = isinstance(getattr_static(value, attribute, None), property)  # by code that may do anything
            value = None if is_computed else getattr(value, attribute, None)
        # Of its file's other names, those of a library's functions would lead far away.
        if not is_global or isinstance(value, nn.Module | MethodType) or _is_near(value, function):
            found.append(value)
    return found


def _is_near(value: object, function: FunctionType) -> bool:
    if isinstance(value, FunctionType | partial):
        return getattr(value, "__module__", function.__module__) == function.__module__
    return hasattr(value, "encode") and not isinstance(value, str | type)


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> list[list[str]]:
    """What code and the functions inside it take from outside, each a name and the attributes that are asked of it."""
    names: list[list[str]] = []
    is_open = False
    for instruction in dis.get_instructions(code):
        if instruction.opname in _FROM_OUTSIDE:
            names.append([instruction.argval])
            is_open = True
        elif instruction.opname in _OF_IT and is_open:
            names[-1].append(instruction.argval)
        elif instruction.opname != "EXTENDED_ARG":
            is_open = False
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names += _names(constant)
    return names
