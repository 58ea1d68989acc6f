"""A user's own VAE and classifier: what `--vae` and `--classifier` name, and how a model is told from another.

Either names a finished model, the same in all runs: a torch module (`package.module:attribute`), or a file that
`VAE.save` or `Classifier.save` wrote. Or a maker, called once a run: `make(seed)` or `make(seed, images)`, which gives
a model; `images` are the study's training images (`vaecore.Images`), which tell it their shape and classes, and to
train on. A maker may give its model trained. Better it gives a torch module with a method `fit(images)`: the study
calls it, with torch's random numbers seeded, keeps the weights in the cache, and does not train again before seed,
images, initial weights or the maker's source change. What `fit` learns must be parameters or buffers. What a VAE and a
classifier must do is said in `vaecore.Autoencoder` and `vaecore._models.Classify`.
"""

import ast
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec, resolve_name
from inspect import Parameter, signature
from pathlib import Path
from sysconfig import get_path
from typing import Any

import torch
from torch import Tensor, nn

from vaecore._check import check_logits
from vaecore._import_by_name import attribute, is_named
from vaecore._store import Tensors, digest
from vaecore.data._images import Images
from vaecore.models._networks import load_classifier, load_vae
from vaecore.models._training import seeded
from vaecore.reconstruction._decode import check_reconstructions, decode_draws, posterior

_METHODS = {"vae": ("encode", "decode"), "classifier": ("__call__",)}
_PICKLED = (".pt", ".pth", ".pt2", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")


def makes_models(text: str, kind: str) -> bool:
    """Whether a `--vae` or `--classifier` names a maker (seed -> model) and not one finished model."""
    if is_named(text):
        return not _finished(_attribute(text, kind), kind)
    if not Path(text).is_file():
        raise ValueError(f"--{kind} must be package.module:attribute or a file that exists; got {text}")
    if text.lower().endswith(_PICKLED):
        raise ValueError(
            f"--{kind} must be a file that vaecore saved; {text} is a pickle or TorchScript by its name, which can run"
            f" code and is never loaded (load it in a module of your own, and give that: --{kind} my_module:model)"
        )
    return False


def user_model(text: str, kind: str, seed: int, device: torch.device, train: Callable[[], Images]) -> Any:
    """The model that `--vae` or `--classifier` names: `package.module:attribute`, or a file saved by vaecore.

    A maker is called with the seed, and with the training images where it has a second parameter without a default;
    torch's random numbers then follow from the seed. What has a `fit` and comes from a maker is not trained yet.
    Raises ValueError where there is no such model, or it lacks what a model of its kind (vae, classifier) needs.
    """
    if not makes_models(text, kind):
        load = load_vae if kind == "vae" else load_classifier
        found = _attribute(text, kind) if is_named(text) else load(text)
    else:
        maker = _attribute(text, kind)
        given = (seed, train()) if _takes_images(maker) else (seed,)
        try:
            with seeded(seed, device):
                found = maker(*given)
        except Exception as error:
            raise ValueError(
                f"--{kind} {text} must be a torch module, or a maker that takes a seed (and, if it likes, the training"
                f" images) and gives a model; calling it with {seed} raised {type(error).__name__}: {error}"
            ) from error
    missing = [name for name in _METHODS[kind] if not callable(getattr(found, name, None))]
    if missing:
        wanted = " and ".join(_METHODS[kind])
        raise ValueError(f"--{kind} {text} must give a model with {wanted}; it lacks {', '.join(missing)}")
    if not isinstance(found, nn.Module):
        return found
    try:
        found = found.to(device).eval()
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"--{kind} {text} cannot be moved to {device}: {error}") from error
    return found if makes_models(text, kind) and fits(found) else found.requires_grad_(requires_grad=False)


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
    digests = {model_digest(one.requires_grad_(requires_grad=False).eval(), kind, probe) for one in (model, again)}
    if len(digests) > 1:
        raise ValueError(
            f"what the {kind}'s `fit` learns must be parameters or buffers, which are kept; a new model with the"
            " weights of the trained one does something else (self.register_buffer keeps a tensor)"
        )
    return weights


def untrained_digest(model: nn.Module, text: str, kind: str) -> str:
    """Digest of what a maker's model will be once it is trained, but for the images: its source, structure, weights.

    The source is that of the maker's module and of all that it has import statements for, wherever they stand, and so
    on; but for the standard library and what is installed.
    """
    weights = [part for name, value in sorted(model.state_dict().items()) for part in (name, value)]
    return digest(kind, text, repr(model), *weights, *_sources(text.partition(":")[0]))


def _takes_images(maker: Callable[..., Any]) -> bool:
    try:
        parameters = [*signature(maker).parameters.values()][:2]
    except ValueError:  # some that are written in C have none
        return False
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return len(parameters) == 2 and parameters[1].kind in positional and parameters[1].default is Parameter.empty


def _sources(name: str) -> list[Path]:
    found: set[Path] = set()
    left = [name]
    while left:
        name = left.pop()
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):  # no module but a name in one, or a module without a file
            continue
        path = Path(str(spec.origin if spec else None)).resolve()
        if path in found or path.suffix != ".py" or not path.is_file() or _is_installed(path):
            continue
        found.add(path)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        left += _imported(path, package)
    return sorted(found)


def _is_installed(path: Path) -> bool:
    return bool({"site-packages", "dist-packages"} & {*path.parts}) or path.is_relative_to(
        Path(get_path("stdlib")).resolve()
    )


def _imported(path: Path, package: str) -> Iterator[str]:
    """What the import statements of a file may name: modules, and names in them, which may be modules, too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            whole = resolve_name(base, package) if node.level else base
            yield whole
            yield from (f"{whole}.{one.name}" for one in node.names)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, a CPU rounds as it does with one thread, so that digests of results do not depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def model_digest(model: Any, kind: str, probe: Tensor) -> str:
    """Digest of a model: its weights, its structure, the source of its class, and what it does with a few images.

    probe: images (n, c, h, w) on the model's device. What a model does tells apart what its weights don't (another
    activation, a closure); raises ValueError where it does what no model of its kind should.
    """
    parts: list[object] = [kind, f"{type(model).__module__}.{type(model).__qualname__}"]
    source = getattr(sys.modules.get(type(model).__module__), "__file__", None)
    if source is not None:
        parts.append(Path(source))
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
        else:
            logits = model(probe)
            check_logits(logits, len(probe))
            if bool((logits >= 0).all() & torch.isclose(logits.sum(1), logits.new_ones(()), atol=1e-4).all()):
                raise ValueError("the classifier must return logits; got probabilities (leave out its last softmax)")
            parts.append(logits)
    return digest(*parts)


def _finished(found: Any, kind: str) -> bool:
    """Whether an attribute is a model already: a torch module or, for a VAE, any object that encodes and decodes."""
    has_methods = all(callable(getattr(found, name, None)) for name in ("encode", "decode"))
    return isinstance(found, nn.Module) or (kind == "vae" and has_methods and not isinstance(found, type))


def _attribute(text: str, kind: str) -> Any:
    found = attribute(text, f"--{kind}")
    if not callable(found) and not _finished(found, kind):
        raise ValueError(
            f"--{kind} {text} must be a module or a maker, make(seed) or make(seed, images); got {type(found).__name__}"
        )
    return found
