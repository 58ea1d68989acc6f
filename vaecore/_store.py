"""The store: results on disk, each under a digest of all that it depends on.

An entry is one safetensors file, written atomically, with a checksum. A damaged entry is computed again with a warning.
A lock for each key makes sure that processes that share the folder compute an entry once.
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
    """An entry was damaged or could not be written; the result is still right."""


def write_tensors(path: Path, tensors: Tensors, header: Mapping[str, str]) -> None:
    """Write tensors and a header of strings to a safetensors file, atomically, with a checksum of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, {**header, "checksum": _checksum(tensors, header)}))


def read_tensors(path: Path) -> tuple[dict[str, str], Tensors]:
    """Read a file that `write_tensors` wrote: header and tensors; raises ValueError if the file is damaged."""
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
        return re.fullmatch("[0-9a-f]{32}", path.stem) is not None  # damaged, but its name is a digest
    return header.get("key") == path.stem and header.get("stage") == path.parent.name


def _checksum(tensors: Tensors, header: Mapping[str, str]) -> str:
    return digest(dict(header), *(part for name in sorted(tensors) for part in (name, tensors[name])))


@dataclass(frozen=True)
class Usage:
    """Number of entries of a stage, and their size in bytes."""

    stage: str
    entries: int
    size: int


class Store:
    """Results by stage ("models", "evidence") and key, in a folder that processes may share."""

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
        """The tensors stored under `key`; if there are none, compute and store them.

        notes: texts to keep in the entry. A damaged entry or a full disk gives a StoreWarning; the tensors are still
        returned.
        """
        tensors = self.read(stage, key)
        if tensors is not None:
            return tensors
        with self.lock(key):
            tensors = self.read(stage, key)  # another process may have stored them while this one waited
            if tensors is None:
                start = time.perf_counter()
                tensors = compute()
                self.write(stage, key, tensors, seconds=time.perf_counter() - start, notes=notes)
            return tensors

    def read(self, stage: str, key: str) -> Tensors | None:
        """The tensors stored under `key`; None if there is no entry, or, with a warning, if it is damaged."""
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
    ) -> bool:
        """Store tensors, the seconds that they took and notes; False, with a warning, if they cannot be written."""
        path = self._path(stage, key)
        for stale in path.parent.glob(f".{path.name}.*.tmp"):  # left by a process that was killed while writing
            stale.unlink(missing_ok=True)
        header = {**(notes or {}), "stage": stage, "key": key, "seconds": f"{seconds:.6g}"}
        try:
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, tensors, header)
        except OSError as error:
            cause = error.strerror or error
            message = f"a result could not be kept in {path.parent}: {cause}; the next run computes it again"
            warnings.warn(StoreWarning(message), stacklevel=2)
            return False
        return True

    def lock(self, key: str) -> BaseFileLock:
        """The lock that a process holds while it computes the entry of a key."""
        return FileLock(self.folder / "locks" / f"{key}.lock")

    def notes(self) -> list[dict[str, str]]:
        """The header of each entry: its stage, key, seconds and notes."""
        headers = []
        for file in self._entries():
            try:
                with safe_open(file, framework="pt") as entry:
                    headers.append(dict(entry.metadata() or {}))
            except (SafetensorError, OSError):  # damaged, which whoever needs its tensors is warned of
                continue
        return headers

    def has(self, stage: str, key: str) -> bool:
        """Whether there is an entry, which may be damaged."""
        return self._path(stage, key).exists()

    def usage(self) -> list[Usage]:
        """Entries and bytes of each stage, in order of name."""
        stages: dict[str, list[int]] = {}
        for file in self._entries():
            stages.setdefault(file.parent.name, []).append(file.stat().st_size)
        return [Usage(stage, len(sizes), sum(sizes)) for stage, sizes in sorted(stages.items())]

    def clear(self) -> None:
        """Delete all entries and their locks, and no other files."""
        for file in self._entries():
            file.unlink(missing_ok=True)
            (self.folder / "locks" / f"{file.stem}.lock").unlink(missing_ok=True)

    def _entries(self) -> list[Path]:
        """The store's own files; the folder may hold other safetensors files."""
        return [file for file in self.folder.glob("*/*.safetensors") if _is_entry(file)]

    def _path(self, stage: str, key: str) -> Path:
        return self.folder / stage / f"{key}.safetensors"
