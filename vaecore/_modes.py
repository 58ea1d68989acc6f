"""Gradients in every mode of torch: with gradients, under `torch.no_grad` and under `torch.inference_mode`."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def in_any_mode(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """A function that differentiates or makes weights, made to work whatever mode of torch it is called in.

    Tensors among its arguments that were made in inference mode are copied, as autograd refuses them. It refuses
    weights that were made there, too: these raise ValueError, if the function differentiates through them.
    """

    @wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        with torch.inference_mode(mode=False), torch.enable_grad():
            positional: Any = [_usable(value) for value in args]
            named: Any = {name: _usable(value) for name, value in kwargs.items()}
            try:
                return function(*positional, **named)
            except RuntimeError as error:
                if "Inference tensors cannot be saved for backward" not in str(error):
                    raise
                raise ValueError(
                    "models must be made outside torch.inference_mode to be differentiated; got weights made in it"
                    " (a copy made outside will do: copy.deepcopy(model))"
                ) from error

    return call


def _usable(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
