"""Many reconstructions of an image from one encoding, and their labels."""

from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from vaecore._batch_sizes import answers, fit_at_once, widest_activation
from vaecore._check import check_classifier, check_images
from vaecore._noise import image_indices, normal
from vaecore._precision import Precision, check_precision, computing_in
from vaecore.models._networks import Autoencoder, Classify
from vaecore.models._training import Progress
from vaecore.reconstruction._compiled import decode_and_reduce
from vaecore.reconstruction._decode import check_finite, check_reconstructions, decode_draws, encode
from vaecore.reconstruction._stream import Rows, Stream, length, portions

Reduced = TypeVar("Reduced", Tensor, dict[str, Tensor])

# Images encoded at once, and draws whose noise is made at once: in small portions noise is dear, in large ones it falls
# out of the cache; a GPU wants to be filled.
_AT_ONCE = {"cpu": (2_000, 10_000), "cuda": (65_536, 262_144)}


@overload
def reconstruct(
    vae: Autoencoder,
    images: Stream,
    *,
    draws: int,
    seed: int,
    first_index: int = ...,
    indices: Tensor | None = ...,
    reduce: None = ...,
    precision: Precision = ...,
    compiled: bool = ...,
    chunk: int | None = ...,
    out: str | Path | None = ...,
    progress: Progress | None = ...,
) -> Tensor: ...


@overload
def reconstruct(
    vae: Autoencoder,
    images: Stream,
    *,
    draws: int,
    seed: int,
    first_index: int = ...,
    indices: Tensor | None = ...,
    reduce: Callable[[Tensor, Tensor], Reduced],
    precision: Precision = ...,
    compiled: bool = ...,
    chunk: int | None = ...,
    out: str | Path | None = ...,
    progress: Progress | None = ...,
) -> Reduced: ...


def reconstruct(
    vae: Autoencoder,
    images: Stream,
    *,
    draws: int,
    seed: int,
    first_index: int = 0,
    indices: Tensor | None = None,
    reduce: Callable[[Tensor, Tensor], Tensor | dict[str, Tensor]] | None = None,
    precision: Precision = "float32",
    compiled: bool = False,
    chunk: int | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Tensor | dict[str, Tensor]:
    """Reconstruct each image from `draws` samples of its posterior: encode once, decode many.

    images: (n, c, h, w) in [0, 1]; a tensor, an array, as `numpy.load(path, mmap_mode="r")` maps it from a file,
    or batches of either, as many as there are. Returns (n, draws, c, h, w) in [0, 1]. With `reduce`, a function of a
    chunk of images (m, c, h, w) and their reconstructions (m, draws, c, h, w), which it may overwrite, that gives a
    tensor (m, ...) or a dict of such, returns these joined over all images, and never holds more than a chunk of
    reconstructions. Batches and arrays go to the device of the VAE where it is a torch module.

    The noise of an image follows from `seed`, its index and the draw alone: image i has index `first_index` + i, or
    `indices[i]`, (n,) int64. So chunks, order and splits change nothing beyond rounding.

    precision: in which the VAE encodes and decodes. "bfloat16", by torch.autocast, is faster where the processor has
    it, and gives float32 images that are off by about a hundredth at most; "tf32" is for GPUs. compiled: decodes and
    reduces by torch.compile, which needs a C++ compiler or, on a GPU, Triton, takes seconds at first for each `reduce`
    (a function of a module) and size of chunk, and saves writing reconstructions to memory; of these only the first
    image's are looked at for values outside [0, 1]. On a GPU `squared_error` by the reference VAE may then run in one
    kernel, where that is faster. chunk: images decoded at once; chosen for the cache, or the GPU, where None. out: a
    new .npy file that results are written to as they come, and mapped from at the end; what is in it after a crash is
    whole. progress: told after each chunk how many images are done, of how many (0 of batches, which are not counted
    beforehand).
    """
    if draws < 1:
        raise ValueError(f"draws must be 1 or more; got {draws}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be 1 or more images; got {chunk}")
    if isinstance(images, Tensor):
        check_images(images)
    count = length(images)
    index = _Indices(count, first_index, indices)
    device = images.device if isinstance(images, Tensor) else _device_of(vae)
    encoded_at_once, drawn_at_once = _AT_ONCE.get(device.type if device is not None else "cpu", _AT_ONCE["cpu"])
    portion = max(1, chunk or 0, min(encoded_at_once, drawn_at_once // draws))
    joined = _Joined(images, draws, whole=reduce is None, out=out)
    looks, pace, step = _Looks(), _Pace(), chunk
    with torch.no_grad(), looks:
        for given in portions(images, portion):
            if not isinstance(images, Tensor):
                check_images(given)
            rows = given if isinstance(images, Tensor) else _to(device, given)
            check_precision(precision, rows.device)
            computing = partial(computing_in, precision, rows.device)
            with computing():
                mean, log_variance = encode(vae, rows)
            looks.at_posterior(mean, log_variance)
            if precision == "bfloat16":
                mean, log_variance = mean.float(), log_variance.float()
            noise = normal(seed, index.take(len(rows), rows.device), draws=draws, size=mean.shape[1])
            latents = torch.addcmul(mean.unsqueeze(1), (0.5 * log_variance).exp().unsqueeze(1), noise)
            if step is None:
                widest = widest_activation(vae, partial(vae.decode, latents[:1, 0]), rows[0].numel())
                size = torch.bfloat16.itemsize if compiled and precision == "bfloat16" else torch.float32.itemsize
                step = max(1, fit_at_once(widest * size, rows.device) // draws)
            if compiled and not joined.filled:
                with computing():
                    decoded = decode_draws(vae, latents[:1], rows[:1].shape)
                looks.at_images(decoded.float() if precision == "bfloat16" else decoded)
            # Compiled chunks are of one size, as each further one would be compiled for, too.
            even = -(-len(rows) // -(-len(rows) // step)) if compiled else step
            for some, here in zip(torch.split(rows, even), torch.split(latents, even), strict=True):
                if compiled:
                    part = decode_and_reduce(vae, some, here, reduce, precision)
                else:
                    with computing():
                        decoded = decode_draws(vae, here, some.shape)
                    if precision == "bfloat16":
                        decoded = decoded.float()
                    looks.at_images(decoded)
                    part = decoded if reduce is None else reduce(some, decoded)
                joined.append(part, len(some))
                if progress is not None:
                    progress(joined.filled, count or 0)
            if out is not None:
                looks.end()  # what is written has been waited for
            if not isinstance(images, Tensor):
                pace.after_portion(rows.device)
        index.finish()
    return joined.all()


class _Looks:
    """Whether posteriors are finite and reconstructions are images: at once, but for those on a GPU in the end.

    There each look would wait until the GPU has done all that it was asked for. Left by an error, it looks as well: a
    posterior that is not finite may be its cause.
    """

    def __init__(self) -> None:
        self.finite: Tensor | None = None
        self.extremes: Tensor | None = None  # smallest and largest number, NaN where there is one

    def at_posterior(self, mean: Tensor, log_variance: Tensor) -> None:
        finite = torch.isfinite(mean).all() & torch.isfinite(log_variance).all()
        if mean.device.type == "cpu":
            check_finite(finite)
        else:
            self.finite = finite if self.finite is None else self.finite & finite

    def at_images(self, decoded: Tensor) -> None:
        if decoded.device.type == "cpu":
            check_reconstructions(decoded.flatten(0, 1))
            return
        low, high = torch.aminmax(decoded)
        if self.extremes is not None:
            low, high = torch.minimum(low, self.extremes[0]), torch.maximum(high, self.extremes[1])
        self.extremes = torch.stack([low, high])

    def end(self) -> None:
        finite, extremes = self.finite, self.extremes
        self.finite = self.extremes = None
        if finite is not None:
            check_finite(finite)
        if extremes is not None:
            check_reconstructions(extremes.view(1, 1, 1, 2))

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.end()


class _Pace:
    """Keeps the host two portions ahead of a GPU at most, as each waits in pinned memory until it is copied."""

    def __init__(self) -> None:
        self.ends: deque[torch.cuda.Event] = deque()

    def after_portion(self, device: torch.device) -> None:
        if device.type == "cuda":
            self.ends.append(torch.cuda.current_stream(device).record_event())
            if len(self.ends) > 2:
                self.ends.popleft().synchronize()


class _Indices:
    """Index of each image, handed out in order: counted up from the first, or as the caller has them."""

    def __init__(self, count: int | None, first_index: int, indices: Tensor | None) -> None:
        self.next, self.given = first_index, indices
        if count is None:
            count = 0 if indices is None else len(indices)
        image_indices(count, first_index, indices)  # says at once what is wrong with them

    def take(self, count: int, device: torch.device) -> Tensor:
        if self.given is None:
            self.next += count
            return torch.arange(self.next - count, self.next, device=device)
        given = self.given.to(device)  # once, and for the next portion they are there
        found, self.given = given[:count], given[count:]
        if len(found) < count:
            raise ValueError("indices must be one for each image; there are more images")
        return found

    def finish(self) -> None:
        if self.given is not None and len(self.given):
            raise ValueError(f"indices must be one for each image; {len(self.given)} are left over")


class _Joined:
    """What is given chunk by chunk, joined: in memory, or in a file."""

    def __init__(self, images: Stream, draws: int, *, whole: bool, out: str | Path | None) -> None:
        self.file = None if out is None else Rows(out)
        self.parts: list[Tensor | dict[str, Tensor]] = []
        self.filled = 0
        # Without a reduction each chunk is copied to its place while it is in the cache, and memory is touched once.
        self.whole: Tensor | None = None
        if whole and out is None and isinstance(images, Tensor):
            self.whole = images.new_empty(len(images), draws, *images.shape[1:])

    def append(self, part: Tensor | dict[str, Tensor], count: int) -> None:
        if self.file is not None:
            if not isinstance(part, Tensor):
                raise ValueError("with `out`, reduce must give one tensor; got a dict (a file has one array)")
            self.file.append(part)
        elif self.whole is not None and isinstance(part, Tensor):
            self.whole[self.filled : self.filled + count] = part
        else:
            self.parts.append(part)
        self.filled += count

    def all(self) -> Tensor | dict[str, Tensor]:
        if not self.filled:
            raise ValueError("images must not be empty; got no batch")
        if self.file is not None:
            return self.file.all()
        if self.whole is not None:
            return self.whole
        return _join(self.parts)


def _device_of(vae: Autoencoder) -> torch.device | None:
    """Where the VAE's weights are; None where it has none that are known."""
    weight = next(vae.parameters(), None) if isinstance(vae, nn.Module) else None
    return None if weight is None else weight.device


def _to(device: torch.device | None, given: Tensor) -> Tensor:
    """What is given, on a device; the copy to a GPU goes on while it computes."""
    if device is None or given.device == device:
        return given
    if device.type != "cuda":
        return given.to(device)
    return (given if given.is_cuda else given.pin_memory()).to(device, non_blocking=True)


def reconstruct_labels(
    vae: Autoencoder,
    classifier: Classify,
    images: Tensor,
    *,
    draws: int,
    seed: int,
    first_index: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """The classifier's label of each reconstruction; images (n, c, h, w) in [0, 1] to (n, draws) int64.

    Raises ValueError for a classifier in training mode, whose labels would be random.
    """
    check_classifier(classifier)

    def label(_: Tensor, reconstructions: Tensor) -> Tensor:
        return answers(classifier, reconstructions.flatten(0, 1)).argmax(dim=1).view(-1, draws)

    return reconstruct(vae, images, draws=draws, seed=seed, first_index=first_index, indices=indices, reduce=label)


def distinct_labels(labels: Tensor) -> Tensor:
    """Number of different labels among the draws; (n, draws) integers to (n,) int64; higher is more anomalous."""
    if labels.ndim != 2 or labels.shape[1] == 0 or labels.is_floating_point():
        raise ValueError(f"labels must be integers of shape (n, draws); got {labels.dtype} {tuple(labels.shape)}")
    ordered = labels.sort(dim=1).values
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)


def _join(parts: list[Tensor | dict[str, Tensor]]) -> Tensor | dict[str, Tensor]:
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if tensors:
        return torch.cat(tensors)
    tables = [part for part in parts if isinstance(part, dict)]
    return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
