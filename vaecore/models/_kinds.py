"""The reference models by their settings: made anew, or read from files."""

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from vaecore._modes import in_any_mode
from vaecore._store import read_tensors
from vaecore.models._colour import ConvVAE, ConvVAEConfig, ResidualClassifier, ResidualConfig
from vaecore.models._networks import (
    VAE,
    Classifier,
    ClassifierConfig,
    ImageShape,
    Reference,
    VAEConfig,
    check_weights,
    with_channels,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AnyVAE = VAE | ConvVAE
AnyVAEConfig = VAEConfig | ConvVAEConfig
AnyClassifier = Classifier | ResidualClassifier
AnyClassifierConfig = ClassifierConfig | ResidualConfig


def vae_of(config: AnyVAEConfig, image_shape: ImageShape) -> AnyVAE:
    """An untrained VAE with these settings."""
    return ConvVAE(config, image_shape) if isinstance(config, ConvVAEConfig) else VAE(config, image_shape)


def classifier_of(config: AnyClassifierConfig, image_shape: ImageShape, classes: int) -> AnyClassifier:
    """An untrained classifier with these settings."""
    if isinstance(config, ResidualConfig):
        return ResidualClassifier(config, image_shape, classes)
    return Classifier(config, image_shape, classes)


@in_any_mode
def load_vae(path: str | Path) -> AnyVAE:
    """Read a VAE that `VAE.save` or `ConvVAE.save` wrote, in eval mode.

    Raises ValueError if the file is damaged, holds no VAE, or holds weights that are not finite float32.
    """
    return load(path, VAE, ConvVAE)  # type: ignore[return-value]  # mypy joins the two to Reference


@in_any_mode
def load_classifier(path: str | Path) -> AnyClassifier:
    """Read a classifier that its `save` wrote, in eval mode; raises ValueError as `load_vae` does."""
    return load(path, Classifier, ResidualClassifier)  # type: ignore[return-value]


_Model = TypeVar("_Model", bound=Reference)


def load(path: str | Path, *kinds: type[_Model]) -> _Model:
    """Read a model of one of these kinds, which `Reference.save` wrote."""
    header, weights = read_tensors(Path(path))
    kind = next((kind for kind in kinds if kind.__name__ == header.get("model")), None)
    if kind is None:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{path} must hold a {wanted} of vaecore; it says {header.get('model', 'nothing')}")
    try:
        with torch.device("meta"):  # so that a size that is wrong takes no memory
            expected = {name: value.shape for name, value in _described(kind, header).state_dict().items()}
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"  # torch's texts may go on for a page
        raise ValueError(
            f"{path} must describe a {kind.__name__} in its header; it does not: {cause} (written by another version?)"
        ) from error
    if {name: value.shape for name, value in weights.items()} != expected:
        raise ValueError(f"{path} must hold the weights that its header describes; their names or shapes are others")
    check_weights(weights, str(path))
    model: _Model = _described(kind, header)
    model.load_state_dict(weights)
    return model.eval()


def _described(kind: Any, header: dict[str, str]) -> Any:
    """The untrained model that a header describes."""
    settings, shape = _config_of(kind.settings, header), _shape_of(header)
    if kind in (Classifier, ResidualClassifier):
        return kind(settings, shape, json.loads(header["classes"]))
    return kind(settings, shape)


def _config_of(kind: "type[DataclassInstance]", header: dict[str, str]) -> Any:
    """The settings in a file's header; raises ValueError for unknown ones."""
    values = json.loads(header["config"])
    if unknown := sorted(set(values) - {field.name for field in fields(kind)}):
        raise ValueError(f"the file's settings must be those of {kind.__name__}; got {', '.join(unknown)} as well")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _shape_of(header: dict[str, str]) -> tuple[int, int, int]:
    """The shape of images in a file's header."""
    shape = tuple(json.loads(header["image_shape"]))
    if len(shape) not in (2, 3) or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ValueError(f"the shape of images must be (channels, height, width); got {shape}")
    return with_channels(shape)
