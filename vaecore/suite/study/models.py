"""Models of a study: the reference models, and a user's own, which `--vae` and `--classifier` name.

A user's option names a finished model, the same in all runs: a torch module (`package.module:attribute`), or a file
that `VAE.save` or `Classifier.save` wrote. Or it names a maker, called once a run: `make(seed)` or
`make(seed, images)`, which gives a model; `images` are the training images (`vaecore.Images`). A maker may give its
model trained. Better it gives a torch module with a method `fit(images)`: the study calls it, with torch's random
numbers seeded, keeps the weights in the cache, and does not train again before seed, images, initial weights or the
maker's source change. What `fit` learns must be parameters or buffers. `vaecore.Autoencoder` says what a VAE must do; a
classifier maps images to logits.

In Python both may also be given as objects (`Live`).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

from vaecore import (
    Autoencoder,
    HierarchicalVAE,
    Images,
    fit_autoencoder,
    fit_classifier,
    fit_hierarchical_vae,
    fit_vae,
    load_classifier,
    load_vae,
)
from vaecore.suite.study.live import Live
from vaecore.suite.study.model_names import names_attribute
from vaecore.suite.study.sources import digest_of, sources_of_module
from vaecore.suite.study.tasks import one_thread
from vaecore.toolkit import (
    Classify,
    Tensors,
    ask,
    attribute,
    check_logits,
    check_reconstructions,
    checked_density,
    classifier_of,
    decode_draws,
    decoder_density,
    digest,
    is_named,
    posterior,
    seeded,
    to_evaluation,
    vae_of,
)

_ALIKE = 1e-3  # difference of a reconstruction and the sigmoid of its log-odds
_METHODS = {"vae": ("encode", "decode"), "classifier": ("__call__",)}


def makes_models(text: str | Live, kind: str) -> bool:
    """Whether a `--vae` or `--classifier` names a maker (seed -> model) and not one finished model."""
    attribute = isinstance(text, Live) or names_attribute(text, kind)
    return attribute and not _finished(_attribute(text, kind), kind)


def takes_images(text: str | Live, kind: str) -> bool:
    """Whether a `--vae` or `--classifier` names a maker that is given the training images."""
    return makes_models(text, kind) and _takes_images(_attribute(text, kind))


def user_model(text: str | Live, kind: str, seed: int, device: torch.device, train: Callable[[], Images]) -> Any:
    """The model that `--vae` or `--classifier` names: `package.module:attribute`, or a file saved by vaecore.

    A maker is called with the seed, and with the training images where it has a second parameter without a default;
    torch's random numbers then follow from the seed. What has a `fit` and comes from a maker is not trained yet.
    Raises ValueError where there is no such model, or it lacks what a model of its kind (vae, classifier) needs.
    """
    if not makes_models(text, kind):
        load = load_vae if kind == "vae" else load_classifier
        model = _attribute(text, kind) if isinstance(text, Live) or is_named(text) else load(text)
    else:
        maker = _attribute(text, kind)
        if isinstance(maker, type) and "seed" not in _parameters(maker)[:1]:
            # A number of latents, or whatever comes first, would be taken from the seed.
            raise ValueError(
                f"--{kind} {text} must be a torch module, or a maker that takes a seed; got a class whose first"
                f" argument is no `seed` (write a maker: def make(seed): return {maker.__name__}(...))"
            )
        arguments = (seed, train()) if _takes_images(maker) else (seed,)
        try:
            with seeded(seed, device):
                model = maker(*arguments)
        except Exception as error:
            raise ValueError(
                f"--{kind} {text} must be a torch module, or a maker that takes a seed (and, if it likes, the training"
                f" images) and gives a model; calling it with {seed} raised {type(error).__name__}: {error}"
            ) from error
    missing = [name for name in _METHODS[kind] if not callable(getattr(model, name, None))]
    if missing:
        wanted = " and ".join(_METHODS[kind])
        raise ValueError(f"--{kind} {text} must give a model with {wanted}; it lacks {', '.join(missing)}")
    if not isinstance(model, nn.Module):
        return model
    try:
        model = to_evaluation(model.to(device))
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"--{kind} {text} cannot be moved to {device}: {error}") from error
    if not (makes_models(text, kind) and fits(model)):
        for weight in model.parameters():  # `Module.requires_grad_`, which a script does not have
            weight.requires_grad_(False)
    return model


def fits(model: Any) -> bool:
    """Whether a maker's model is to be trained by the study, which calls its `fit` with the training images."""
    return isinstance(model, nn.Module) and callable(getattr(model, "fit", None))


def fit(model: nn.Module, kind: str, seed: int, train: Images, device: torch.device) -> Tensors:
    """Train a maker's model on the study's training images; gives its weights.

    Raises ValueError where it learned more than its weights, which would be lost when they are read again.
    """
    again = copy.deepcopy(model)
    try:
        with seeded(seed, device), torch.enable_grad():
            model.requires_grad_().train()
            model.fit(train)  # type: ignore[operator]  # see `fits`
    except Exception as error:
        raise ValueError(
            f"the {kind}'s `fit` must take the training images, a vaecore.Images, and nothing else; it raised"
            f" {type(error).__name__}: {error} (a `fit` for another purpose: give it another name)"
        ) from error
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    again.load_state_dict(weights)
    probe = train.pixels[:64].to(device)
    digests = {model_digest(each.requires_grad_(requires_grad=False).eval(), kind, probe) for each in (model, again)}
    if len(digests) > 1:
        raise ValueError(
            f"what the {kind}'s `fit` learns must be parameters or buffers, which are kept; a new model with the"
            " weights of the trained one does something else (self.register_buffer keeps a tensor)"
        )
    return weights


def untrained_digest(model: nn.Module, text: str | Live, kind: str) -> str:
    """Digest of what a maker's model will be once it is trained, but for the images: its source, structure, weights.

    The source is that of the maker's module and of all that it reaches by imports.
    """
    weights = [part for name, value in sorted(model.state_dict().items()) for part in (name, value)]
    source = text.digest if isinstance(text, Live) else digest_of(sources_of_module(text.partition(":")[0]))
    return digest(kind, str(text), repr(model), *weights, source)


def _parameters(maker: Callable[..., Any]) -> list[str]:
    try:
        return [*signature(maker).parameters]
    except ValueError:  # some that are written in C have none
        return []


def _takes_images(maker: Callable[..., Any]) -> bool:
    try:
        parameters = [*signature(maker).parameters.values()][:2]
    except ValueError:  # some that are written in C have none
        return False
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return len(parameters) == 2 and parameters[1].kind in positional and parameters[1].default is Parameter.empty


def model_digest(model: Any, kind: str, probe: Tensor) -> str:
    """Digest of a model: its weights, its structure, and what it does with a few images.

    probe: images (n, c, h, w) on the model's device. What a model does tells apart what its weights don't (another
    activation, a closure). Raises ValueError where it does what no model of its kind should.
    """
    parts: list[object] = [kind, f"{type(model).__module__}.{type(model).__qualname__}"]
    if isinstance(model, nn.Module):
        parts.append(repr(model))
        for name, value in sorted(model.state_dict().items()):
            parts += [name, value]
    with torch.no_grad(), one_thread():
        if kind == "vae":
            mean, log_variance = posterior(model, probe)
            decoded = decode_draws(model, mean.unsqueeze(1), probe.shape)[:, 0]
            check_reconstructions(decoded)
            parts += [mean, log_variance, decoded]
            if (give := getattr(model, "decode_logits", None)) is not None:
                parts.append(odds := ask(give, mean))
                _check_odds(odds, decoded)
            if (density := decoder_density(model, probe.shape)) is not None:
                parts.append(checked_density(density, probe, decoded.unsqueeze(1)))
        else:
            logits = ask(model, probe)
            check_logits(logits, len(probe))
            if bool((logits >= 0).all() & torch.isclose(logits.sum(1), logits.new_ones(()), atol=1e-4).all()):
                raise ValueError("the classifier must return logits; got probabilities (leave out its last softmax)")
            parts.append(logits)
    return digest(*parts)


def _check_odds(odds: Tensor, decoded: Tensor) -> None:
    difference = float((odds.sigmoid().flatten(1) - decoded.flatten(1)).abs().max())
    if not difference < _ALIKE:
        raise ValueError(
            "the VAE's decode_logits must be the log-odds of what decode gives; their sigmoid is off by"
            f" {difference:.3g}"
        )


def _finished(value: Any, kind: str) -> bool:
    """Whether an attribute is a model already: a torch module or, for a VAE, any object that encodes and decodes."""
    has_methods = all(callable(getattr(value, name, None)) for name in ("encode", "decode"))
    return isinstance(value, nn.Module) or (kind == "vae" and has_methods and not isinstance(value, type))


def _attribute(text: str | Live, kind: str) -> Any:
    value = text.value if isinstance(text, Live) else attribute(text, f"--{kind}")
    if not callable(value) and not _finished(value, kind):
        raise ValueError(
            f"--{kind} {text} must be a module or a maker, make(seed) or make(seed, images); got {type(value).__name__}"
        )
    return value


@dataclass(frozen=True, eq=False)
class Run:
    """The models of one training seed."""

    seed: int
    vae: Autoencoder
    classifier: Classify


def all_but(places: Tensor, count: int) -> Tensor:
    """A mask (count,) of all places but these."""
    others = torch.ones(count, dtype=torch.bool)
    others[places] = False
    return others


def seen(train: Tensors, held_out: Tensors) -> Images:
    """Training images that a run's models learn from: all pixels and labels but those at the places held out."""
    kept = all_but(held_out["places"], len(train["pixels"]))
    labels = train["labels"][kept] if "labels" in train else None
    return Images(train["pixels"][kept], labels, "the training images", "train")


_REFERENCES: dict[str, Any] = {
    "vae": fit_vae,
    "classifier": fit_classifier,
    "autoencoder": fit_autoencoder,
    "hierarchical vae": fit_hierarchical_vae,
}


def train_reference(
    kind: str,
    config: Any,
    seed: int,
    device: str,
    train: Tensors,
    held_out: Tensors,
) -> Tensors:
    """Weights of a reference model, one of `_REFERENCES`, trained on pixels and labels; a task."""
    fit = _REFERENCES[kind]
    return dict(fit(seen(train, held_out), config, seed=seed, device=device).cpu().state_dict())


def reference(
    kind: str, config: Any, shape: tuple[int, int, int], classes: int, device: str, weights: Tensors
) -> nn.Module:
    """A reference model with these weights, as it is used; a task."""
    kinds: Any = {"classifier": partial(classifier_of, classes=classes), "hierarchical vae": HierarchicalVAE}
    model: nn.Module = kinds.get(kind, vae_of)(config, shape)
    model.load_state_dict(weights)
    return model.requires_grad_(requires_grad=False).to(device).eval()


def train_made(
    text: str | Live, kind: str, seed: int, made: str, device: str, train: Tensors, held_out: Tensors
) -> Tensors:
    """Weights of a maker's model, trained by its own `fit`; a task. made: digest of the model before (see `made`)."""
    images, place = seen(train, held_out), torch.device(device)
    model = user_model(text, kind, seed, place, lambda: images)
    if untrained_digest(model, text, kind) != made:
        raise ValueError(_other(text, seed))
    return {name: value.cpu() for name, value in fit(model, kind, seed, images, place).items()}


def made(
    text: str | Live,
    kind: str,
    seed: int,
    device: str,
    made: str,
    train: Tensors | None,
    held_out: Tensors | None,
    probe: Tensors,
    weights: Tensors | None,
) -> Any:
    """A user's model as it is used; a task. made: digest of what the maker must give again.

    Processes that share the work each call the maker. probe: images that the digest of a finished model was taken of.
    """

    def training_images() -> Images:
        assert train is not None  # `Study` gives them to makers that take them
        assert held_out is not None
        return seen(train, held_out)

    model = user_model(text, kind, seed, torch.device(device), training_images)
    if weights is None:
        if given_digest(model, text, kind, probe["pixels"].to(device)) != made:
            raise ValueError(_other(text, seed))
        return model
    model.load_state_dict(weights)
    return model.requires_grad_(requires_grad=False).eval()


def given_digest(model: Any, text: str | Live, kind: str, probe: Tensor) -> str:
    """Digest of a user's model that is not trained here: what it is and does, and its source."""
    source = text.digest if isinstance(text, Live) else digest_of(sources_of_module(type(model).__module__))
    return digest(model_digest(model, kind, probe), source)


def _other(text: str | Live, seed: int) -> str:
    return (
        f"{text} must give the same model each time it gets a seed, as processes that share the work each call it; for"
        f" {seed} it gave another (one that trains: leave that to a `fit` of its module, whose result is kept)"
    )
