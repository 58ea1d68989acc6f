"""What to do about usual mistakes, for error messages: the line of Python that makes an argument what it should be.

`name` is the argument's own. A remedy comes in brackets behind the error, or is empty.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHANNELS = (1, 3)
_PIXELS = ("images", "pixels")  # arguments
# What torch says where tensors do not fit.
_SHAPES = (
    r"shapes cannot be multiplied|to have \d+ channels|must match the size|invalid for input of size|"
    r"running_mean should contain|greater than actual input|expected input with shape"
)
_DEVICES = r"on the same device|weight type \(torch\.\w+\."
_DTYPES = "the same dtype|should be the same"


def of_call(error: RuntimeError, given: Tensor) -> str:
    """Of a model that raised an error of torch's about the images or latents it was given; empty for other errors."""
    said = str(error)
    if re.search(_SHAPES, said):
        if given.ndim == 2:
            return "decode must take as many latents as encode gives"
        resized = "torch.nn.functional.interpolate(images, size=(height, width))"
        return f"was it made for images of another size or number of channels? resize them: {resized}"
    if re.search(_DEVICES, said):
        return "move the images to the model's device: images.to(next(model.parameters()).device)"
    return "make the model float32, as images are: model.float()" if re.search(_DTYPES, said) else ""


def of_type(value: object, name: str) -> str:
    """Of what should be a tensor, and is none."""
    if isinstance(value, np.ndarray):
        return f" (torch.from_numpy({name}){_of_array(value, name)})"
    if isinstance(value, list | tuple):
        tensors = bool(value) and all(isinstance(part, Tensor) for part in value)
        if isinstance(value, tuple) and tensors and len(value) == 2:
            return f" (a batch with labels? images, labels = {name})"
        return f" (torch.{'stack' if tensors else 'tensor'}({name}))"
    if name not in _PIXELS:
        return ""
    if isinstance(getattr(value, "pixels", None), Tensor):
        return f" (give its tensor: {name}.pixels)"
    if hasattr(value, "getpixel"):
        return f" (of Pillow: torchvision.transforms.functional.to_tensor({name}).unsqueeze(0))"
    if isinstance(value, str):
        return f" (load_images({value!r}).pixels)"
    return f" (a batch at a time: for images, _ in {name})" if isinstance(value, Iterable) else ""


def _of_array(array: NDArray[Any], name: str) -> str:
    """What else a tensor from an array needs."""
    if name in _PIXELS:
        return ".float() / 255" if array.dtype.kind in "iu" else "" if array.dtype == np.float32 else ".float()"
    return "" if array.dtype == np.int64 else ".long()"


def of_shape(shape: Sequence[int], name: str) -> str:
    """Of images that are not (n, channels, height, width)."""
    remedies = []
    if len(shape) in (1, 2):
        for channels in _CHANNELS:
            side = math.isqrt(shape[-1] // channels)
            if channels * side * side == shape[-1] and side > 1:
                remedies.append(f"flat images: {name}.view(-1, {channels}, {side}, {side})")
        if len(shape) == 2:
            remedies.append(f"one image alone: {name}[None, None]")
    elif len(shape) == 3:
        if shape[0] in _CHANNELS:
            remedies.append(f"one image alone: {name}.unsqueeze(0)")
        if shape[2] in _CHANNELS:
            remedies.append(f"one image alone, whose channels come last: {name}.permute(2, 0, 1).unsqueeze(0)")
        else:
            remedies.append(f"a missing channel axis is added with {name}.unsqueeze(1)")
    elif len(shape) == 4 and shape[3] in (*_CHANNELS, 4):
        remedies.append(f"where the channels come last: {name}.permute(0, 3, 1, 2); transparency is left out")
    elif len(shape) == 4 and shape[1] == 4:
        remedies.append(f"transparency is left out: {name}[:, :3]")
    elif len(shape) == 5:
        remedies.append(f"draws of each image: {name}.flatten(0, 1)")
    return f" ({'; '.join(remedies)})" if remedies else ""


def of_dtype(images: Tensor, name: str) -> str:
    """Of images that are not float32."""
    if images.is_floating_point() or images.dtype is torch.bool:
        return f" (use {name}.float())"
    return f" (bytes 0..255: use {name}.float() / 255)"


def of_range(low: float, high: float) -> str:
    """Of images beyond [0, 1]."""
    if low >= 0 and high > 2:
        return "divide bytes by 255: images / 255"
    return "undo mean/std normalisation first: images * std + mean"


def from_one(labels: Tensor | NDArray[Any] | None, classes: int | None) -> str:
    """Of labels that fit a model of so many classes, were they counted from 0."""
    if labels is None or (int(labels.min()), int(labels.max())) != (1, classes):
        return ""
    return " (labels are counted from 0: labels - 1)"


def of_labels(labels: Tensor | NDArray[Any], count: int, name: str) -> str:
    """Of labels that are not int64, one for each image."""
    shape, axis = tuple(labels.shape), "dim" if isinstance(labels, Tensor) else "axis"
    if len(shape) == 2 and shape[0] == count:
        return f" (one-hot? {name}.argmax({axis}=1))" if shape[1] > 1 else f" ({name}.squeeze({axis}=1))"
    if shape == (count,):
        return f" ({name}.long())" if isinstance(labels, Tensor) else ""
    return ""
