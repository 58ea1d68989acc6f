"""Many reconstructions of each image from one encoding, and their labels."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

from vaecore._batch_sizes import answers, rows_at_once
from vaecore._calls import ask
from vaecore._check import check_classifier, check_images, check_integer, check_tensor
from vaecore._noise import image_indices, normal
from vaecore._precision import Precision, check_precision, computing_in
from vaecore.models._networks import Autoencoder, Classify
from vaecore.models._training import Progress
from vaecore.reconstruction._compiled import decode_and_reduce
from vaecore.reconstruction._decode import check_finite, check_reconstructions, decode_draws, encode, latents_of
from vaecore.reconstruction._stream import Rows, Stream, length, portions

Reduced = TypeVar("Reduced", Tensor, dict[str, Tensor])

_ALONE = None  # the name of what `reduce` gives if it gives one tensor
# Images encoded at once, and draws whose noise is generated at once. On a CPU small portions of noise are slow to
# generate, and large ones fall out of the cache; a GPU is filled.
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

    images: (n, c, h, w) in [0, 1]; a tensor, an array (also mapped from a file: `numpy.load(path, mmap_mode="r")`), or
    an iterable of such batches. Arrays and batches are moved to the device of the VAE if it is a torch module.
    Returns (n, draws, c, h, w) in [0, 1]; with `reduce`, the concatenated results of that function. It receives a chunk
    of images (m, c, h, w) and their reconstructions (m, draws, c, h, w), which it may overwrite, and returns a tensor
    (m, ...) or a dict of tensors. Only one chunk of reconstructions is in memory at a time.

    An image's noise depends only on `seed`, its index and the draw. Image i has index `first_index` + i, or
    `indices[i]`, (n,) int64. So chunks, order and splits change results by rounding only.

    precision: of encoding and decoding. "bfloat16" (torch.autocast) is faster on processors that support it, and
    changes pixels by about 0.01 at most; "tf32" is for GPUs. Results are float32.
    compiled: decode and reduce by torch.compile. It saves writing reconstructions to memory, needs a C++ compiler or,
    on a GPU, Triton, and takes seconds once for each `reduce` (a function of a module) and chunk size. Only the first
    image's reconstructions are then checked for values outside [0, 1].
    chunk: images decoded at once; by default chosen to fit the cache or the GPU. out: a new .npy file to write results
    to as they are computed; the result is mapped from it. After a crash it holds the rows written so far.
    progress: called after each chunk with the number of images done and the total (0 for an iterable of batches).
    Raises ValueError for invalid arguments and if the VAE returns other shapes or values, TypeError for other types.
    """
    draws, first_index = check_integer("draws", draws, 1), check_integer("first_index", first_index, 0)
    chunk = None if chunk is None else check_integer("chunk", chunk, 1)
    if isinstance(images, Tensor):
        images = check_images(images)
    count = length(images)
    expected = len(indices) if count is None and indices is not None else count or 0
    image_indices(expected, first_index, indices)  # raises ValueError before anything is computed
    device = images.device if isinstance(images, Tensor) else _device_of(vae)
    encoded_at_once, drawn_at_once = _AT_ONCE.get(device.type if device is not None else "cpu", _AT_ONCE["cpu"])
    portion = max(1, chunk or 0, min(encoded_at_once, drawn_at_once // draws))
    joined = _Joined(count, out)
    looks, pace, step = _Looks(), _Pace(), chunk
    with torch.no_grad(), looks:
        for loaded in portions(images, portion):
            rows = loaded if isinstance(images, Tensor) else _to(device, check_images(loaded))
            check_precision(precision, rows.device)
            computing = partial(computing_in, precision, rows.device)
            with computing():
                mean, log_variance = encode(vae, rows)
            looks.at_posterior(mean, log_variance)
            if indices is None:
                first = first_index + joined.filled
                index = torch.arange(first, first + len(rows), device=rows.device)
            else:
                indices = indices.to(rows.device)  # copied once
                index = indices[joined.filled : joined.filled + len(rows)]
                if len(index) < len(rows):
                    raise ValueError("indices must be one for each image; there are more images")
            noise = normal(seed, index, draws=draws, size=mean.shape[1])
            latents = latents_of((mean, log_variance), noise)
            if step is None:
                dtype = torch.bfloat16 if compiled and precision == "bfloat16" else torch.float32
                decode, pixels = partial(ask, vae.decode), rows[0].numel()
                step = max(1, rows_at_once(vae, "decode", decode, latents[:1, 0], pixels, dtype) // draws)
            if compiled and not joined.filled:
                with computing():
                    decoded = decode_draws(vae, latents[:1], rows[:1].shape)
                looks.at_images(decoded)
            # Compiled chunks are of equal size, as each size is compiled separately.
            size = -(-len(rows) // -(-len(rows) // step)) if compiled else step
            for chunk_rows, chunk_latents in zip(torch.split(rows, size), torch.split(latents, size), strict=True):
                if compiled:
                    part = decode_and_reduce(vae, chunk_rows, chunk_latents, reduce, precision)
                else:
                    with computing():
                        decoded = decode_draws(vae, chunk_latents, chunk_rows.shape)
                    decoded = looks.at_images(decoded)
                    part = decoded if reduce is None else reduce(chunk_rows, decoded)
                joined.append(part, len(chunk_rows))
                if progress is not None:
                    progress(joined.filled, count or 0)
            if out is not None:
                looks.end()  # writing has waited for the GPU already
            if not isinstance(images, Tensor):
                pace.after_portion(rows.device)
        if indices is not None and len(indices) > joined.filled:
            raise ValueError(f"indices must be one for each image; {len(indices) - joined.filled} are left over")
    return joined.all()


class _Looks:
    """Checks that posteriors are finite and reconstructions are images: immediately on a CPU, at the end on a GPU.

    On a GPU each check would wait for all work that is queued. The checks also run if an error ends the block, as a
    posterior that is not finite may be its cause.
    """

    def __init__(self) -> None:
        self.finite: Tensor | None = None
        self.extremes: Tensor | None = None  # smallest and largest pixel; NaN if any is NaN

    def at_posterior(self, mean: Tensor, log_variance: Tensor) -> None:
        finite = torch.isfinite(mean).all() & torch.isfinite(log_variance).all()
        if mean.device.type == "cpu":
            check_finite(finite)
        else:
            self.finite = finite if self.finite is None else self.finite & finite

    def at_images(self, decoded: Tensor) -> Tensor:
        """Decoded images (m, draws, c, h, w), without the rounding beyond the ends of [0, 1]."""
        if decoded.device.type == "cpu":
            return check_reconstructions(decoded.flatten(0, 1)).view_as(decoded)
        low, high = torch.aminmax(decoded)
        if self.extremes is not None:
            low, high = torch.minimum(low, self.extremes[0]), torch.maximum(high, self.extremes[1])
        self.extremes = torch.stack([low, high])
        return decoded.clamp(0, 1)

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
    """Keeps the host at most two portions ahead of a GPU, as each portion occupies pinned memory until it is copied."""

    def __init__(self) -> None:
        self.ends: deque[torch.cuda.Event] = deque()

    def after_portion(self, device: torch.device) -> None:
        if device.type == "cuda":
            self.ends.append(torch.cuda.current_stream(device).record_event())
            if len(self.ends) > 2:
                self.ends.popleft().synchronize()


class _Joined:
    """Concatenates the results of chunks, in memory or in a file; count: of all images, None where not known."""

    def __init__(self, count: int | None, out: str | Path | None) -> None:
        self.count, self.file = count, None if out is None else Rows(out)
        self.parts: list[Tensor | dict[str, Tensor]] = []
        self.filled = 0
        # Each chunk's is copied to its final place. Many small results that stay, between the large ones that go, would
        # keep the memory of these from being used again.
        self.whole: dict[str | None, Tensor] | None = None
        self.form: dict[str | None, tuple[torch.Size, torch.dtype]] = {}

    def append(self, part: Tensor | dict[str, Tensor], count: int) -> None:
        """Add the results of `count` images."""
        results: Iterable[object] = part.values() if isinstance(part, dict) else (part,)
        for result in results:
            if not isinstance(result, Tensor) or result.shape[:1] != (count,):
                got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
                raise ValueError(
                    f"reduce must give a tensor or a dict of tensors, with a row for each of {count} images; got {got}"
                )
        if self.file is not None:
            if not isinstance(part, Tensor):
                raise ValueError("with `out`, reduce must give one tensor; got a dict (a file has one array)")
            self.file.append(part)
        elif self.count is None:
            self.parts.append(part)
        else:
            named = part if isinstance(part, dict) else {_ALONE: part}
            form = {name: (result.shape[1:], result.dtype) for name, result in named.items()}
            if self.whole is None:
                self.form = form
                self.whole = {name: each.new_empty(self.count, *each.shape[1:]) for name, each in named.items()}
            if form != self.form:
                raise ValueError(
                    f"reduce must give the same names, shapes and dtypes for every chunk; got {form} after {self.form}"
                )
            for name, result in named.items():
                self.whole[name][self.filled : self.filled + count] = result
        self.filled += count

    def all(self) -> Tensor | dict[str, Tensor]:
        if not self.filled:
            raise ValueError("images must not be empty; got no batch")
        if self.file is not None:
            return self.file.all()
        if self.whole is not None:
            return self.whole.get(_ALONE, {name: each for name, each in self.whole.items() if name is not None})
        tensors = [part for part in self.parts if isinstance(part, Tensor)]
        if tensors:
            return torch.cat(tensors)
        tables = [part for part in self.parts if isinstance(part, dict)]
        return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}


def _device_of(vae: Autoencoder) -> torch.device | None:
    """The device of the VAE's weights; None unless it is a torch module with weights."""
    weight = next(vae.parameters(), None) if isinstance(vae, nn.Module) else None
    return None if weight is None else weight.device


def _to(device: torch.device | None, images: Tensor) -> Tensor:
    """Images on a device; a GPU computes while they are copied to it."""
    if device is None or images.device == device:
        return images
    if device.type != "cuda":
        return images.to(device)
    return (images if images.is_cuda else images.pin_memory()).to(device, non_blocking=True)


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
    """The classifier's label for each reconstruction; images (n, c, h, w) in [0, 1] to (n, draws) int64.

    `draws`, `seed`, `first_index` and `indices` as in `reconstruct`. Raises ValueError for a classifier in training
    mode, whose labels would be random.
    """
    check_classifier(classifier)

    def label(_: Tensor, reconstructions: Tensor) -> Tensor:
        return answers(classifier, reconstructions.flatten(0, 1)).argmax(dim=1).view(-1, draws)

    return reconstruct(vae, images, draws=draws, seed=seed, first_index=first_index, indices=indices, reduce=label)


def distinct_labels(labels: Tensor) -> Tensor:
    """Number of different labels among the draws; (n, draws) integers to (n,) int64; higher is more anomalous."""
    check_tensor("labels", labels)
    if labels.ndim != 2 or labels.shape[1] == 0 or labels.is_floating_point():
        raise ValueError(f"labels must be integers of shape (n, draws); got {labels.dtype} {tuple(labels.shape)}")
    ordered = labels.sort(dim=1).values
    return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
