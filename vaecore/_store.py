"""The store: results on disk under a digest of all that they depend on.

An entry is one safetensors file, written under a temporary name and renamed, with a checksum of its tensors inside. A
damaged one is computed again with a warning. Processes that ask for the same key do the work once.
"""

import re
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vaecore._digest import digest
from vaecore._files import write_atomically

Tensors = dict[str, Tensor]


class StoreWarning(UserWarning):
    """An entry was damaged, or could not be written; the result is right all the same."""


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


class Store:
    """Results of each stage ("models", "evidence") under their keys, in a folder that processes may share."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"the cache folder must be writable; {self.folder} is not: {error.strerror}"
                " (choose another with --cache-dir or VAECORE_CACHE)"
            ) from None

    def get(
        self, stage: str, key: str, compute: Callable[[], Tensors], *, notes: Mapping[str, str] | None = None
    ) -> Tensors:
        """The tensors stored under `key`, or else those that `compute` gives, stored for the next time.

        notes: texts to keep beside them. A damaged entry, and a disk that takes no more, cost a StoreWarning and the
        time, never the result.
        """
        found = self.read(stage, key)
        if found is not None:
            return found
        with self.lock(key):
            found = self.read(stage, key)  # another process may have done the work while this one waited
            if found is None:
                start = time.perf_counter()
                found = compute()
                self.write(stage, key, found, seconds=time.perf_counter() - start, notes=notes)
            return found

    def read(self, stage: str, key: str) -> Tensors | None:
        """The tensors stored under `key`; None where there are none, and with a warning where they are damaged."""
        path = self._path(stage, key)
        try:
            header, tensors = read_tensors(path)
            if header.get("key") != path.stem:
                raise ValueError(f"{path} must hold the key of its name; it holds {header.get('key')}")
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            warnings.warn(StoreWarning(f"a stored result is computed again: {error}"), stacklevel=2)
            return None
        return tensors

    def write(
        self, stage: str, key: str, tensors: Tensors, *, seconds: float, notes: Mapping[str, str] | None = None
    ) -> None:
        """Store tensors, the seconds that they took and the notes; warn where the disk takes no more."""
        path = self._path(stage, key)
        for stale in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it wrote
            stale.unlink(missing_ok=True)
        header = {**(notes or {}), "stage": stage, "key": key, "seconds": f"{seconds:.6g}"}
        try:
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, tensors, header)
        except OSError as error:
            cause = error.strerror or error
            message = f"a result could not be kept in {path.parent}: {cause}; the next run computes it again"
            warnings.warn(StoreWarning(message), stacklevel=2)

    def lock(self, key: str) -> BaseFileLock:
        """What a process holds while it computes the entry of a key."""
        return FileLock(self.folder / "locks" / f"{key}.lock")

    def notes(self) -> list[dict[str, str]]:
        """What is noted beside each entry, its seconds among it."""
        found = []
        for file in self._entries():
            with safe_open(file, framework="pt") as entry:
                found.append(dict(entry.metadata() or {}))
        return found

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
