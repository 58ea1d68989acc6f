"""The artifact store: results on disk under a digest of everything that they depend on.

An entry is one safetensors file, written under a temporary name and renamed, with a checksum of its tensors inside. A
damaged one is computed again with a warning. Processes that ask for the same key do the work once.
"""

import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

Tensors = dict[str, Tensor]


class StoreWarning(UserWarning):
    """An entry was damaged, or could not be written; the result is right all the same."""


def digest(*parts: object) -> str:
    """Digest of JSON-like values, dataclasses, bytes, files (as Path: their contents) and tensors; 32 hex digits."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            data = part.detach().cpu().contiguous()
            content = f"{data.dtype}{tuple(data.shape)}".encode() + data.numpy().tobytes()
        elif isinstance(part, Path):
            content = part.read_bytes()
        elif isinstance(part, bytes):
            content = part
        elif is_dataclass(part) and not isinstance(part, type):
            content = json.dumps([type(part).__name__, asdict(part)], sort_keys=True).encode()
        else:
            content = json.dumps(part, sort_keys=True).encode()
        state.update(len(content).to_bytes(8, "little"))  # so that ("ab", "c") and ("a", "bc") differ
        state.update(content)
    return state.hexdigest()


def source_digest(*modules: ModuleType) -> str:
    """Digest of what a computation depends on beside its input: the source of its modules, and torch's version."""
    return digest(*(Path(str(module.__file__)) for module in modules), version("torch").partition("+")[0])


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a temporary name in the same folder, flushed to disk, then renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_tensors(path: Path, tensors: Tensors, header: Mapping[str, str]) -> None:
    """Write tensors and a header of strings to a safetensors file, atomically, with a checksum of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, {**header, "checksum": _checksum(tensors, header)}))


def read_tensors(path: Path) -> tuple[dict[str, str], Tensors]:
    """Read what `write_tensors` wrote; raises ValueError where the file is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file; it can't be read: {error}") from None
    if header.pop("checksum", None) != _checksum(tensors, header):
        raise ValueError(f"{path} must match its own checksum; it does not (a disk error, or an edit by hand)")
    return header, tensors


def _is_entry(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError):
        return re.fullmatch("[0-9a-f]{32}", path.stem) is not None  # damaged, under a name that `digest` gives
    return header.get("key") == path.stem and header.get("stage") == path.parent.name


def _checksum(tensors: Tensors, header: Mapping[str, str]) -> str:
    return digest(dict(header), *(part for name in sorted(tensors) for part in (name, tensors[name])))


@dataclass(frozen=True)
class Usage:
    """What a stage of the store holds: number of entries, and their size in bytes."""

    stage: str
    entries: int
    size: int


class NotKeptError(LookupError):
    """An entry is not in a store that is only read from."""


class Store:
    """Results of each stage ("models", "evidence") under their keys, in a folder that processes may share."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self._only_reading = False
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"the cache folder must be writable; {self.folder} is not: {error.strerror}"
                " (choose another with --cache-dir or VAECORE_CACHE)"
            ) from None

    def get(self, stage: str, key: str, compute: Callable[[], Tensors]) -> Tensors:
        """The tensors stored under `key`, or else those that `compute` gives, stored for the next time.

        A damaged entry, and a disk that takes no more, cost a StoreWarning and the time, never the result.
        """
        path = self._path(stage, key)
        found = self._read(path)
        if found is not None:
            return found
        if self._only_reading:
            raise NotKeptError(key)
        with FileLock(self.folder / "locks" / f"{key}.lock"):
            found = self._read(path)  # another process may have done the work while this one waited
            if found is not None:
                return found
            for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it wrote
                stale.unlink(missing_ok=True)
            tensors = compute()
            try:
                path.parent.mkdir(exist_ok=True)
                write_tensors(path, tensors, {"stage": stage, "key": key})
            except OSError as error:
                cause = error.strerror or error
                message = f"a result could not be kept in {path.parent}: {cause}; the next run computes it again"
                warnings.warn(StoreWarning(message), stacklevel=2)
            return tensors

    @contextmanager
    def only_reading(self) -> Iterator[None]:
        """Within, `get` raises NotKeptError for what is not there."""
        self._only_reading = True
        try:
            yield
        finally:
            self._only_reading = False

    def has(self, stage: str, key: str) -> bool:
        """Whether an entry is there (it may still prove damaged when it is read)."""
        return self._path(stage, key).exists()

    def usage(self) -> list[Usage]:
        """Entries and bytes of each stage."""
        stages: dict[str, list[int]] = {}
        for file in self._entries():
            stages.setdefault(file.parent.name, []).append(file.stat().st_size)
        return [Usage(stage, len(sizes), sum(sizes)) for stage, sizes in sorted(stages.items())]

    def clear(self) -> None:
        """Delete all entries and their locks; files that are not the store's stay."""
        for file in self._entries():
            file.unlink(missing_ok=True)
            (self.folder / "locks" / f"{file.stem}.lock").unlink(missing_ok=True)

    def _entries(self) -> list[Path]:
        """Files that say they are the store's; other safetensors files may lie in the same folder."""
        return [file for file in self.folder.glob("*/*.safetensors") if _is_entry(file)]

    def _path(self, stage: str, key: str) -> Path:
        return self.folder / stage / f"{key}.safetensors"

    def _read(self, path: Path) -> Tensors | None:
        try:
            header, tensors = read_tensors(path)
            if header.get("key") != path.stem:
                raise ValueError(f"{path} must hold the key of its name; it holds {header.get('key')}")
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            warnings.warn(StoreWarning(f"a stored result is computed again: {error}"), stacklevel=3)
            return None
        return tensors
