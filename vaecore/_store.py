"""The store: results on disk, each under a digest of all that it depends on.

An entry is one safetensors file, written atomically, with a checksum. A damaged entry is computed again with a warning.
A lock for each key makes sure that processes that share the folder compute an entry once.
"""

import os
import re
import secrets
import stat
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vaecore._digest import digest
from vaecore._files import expanded, locked, sweep, write_atomically

Tensors = dict[str, Tensor]
_HELD = ".held"
_DAY = 86400.0  # seconds; the time of an entry's last use is kept to the day


class StoreWarning(UserWarning):
    """An entry was damaged, or could not be written or locked; the result is still right."""


def write_tensors(path: Path, tensors: Tensors, header: Mapping[str, str]) -> None:
    """Write tensors and a header of strings to a safetensors file, atomically, with a checksum of both."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(tensors, {**header, "checksum": _checksum(tensors, header)}))


def read_tensors(path: Path) -> tuple[dict[str, str], Tensors]:
    """Read a file that `write_tensors` wrote: header and tensors; raises ValueError if the file is damaged."""
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise ValueError(f"{path} must be a file; it is a folder, a pipe or a device")
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file; it can't be read: {error}") from None
    if header.pop("checksum", None) != _checksum(tensors, header):
        raise ValueError(f"{path} must match its own checksum; it does not (a disk error, or an edit by hand)")
    return header, tensors


def _checksum(tensors: Tensors, header: Mapping[str, str]) -> str:
    return digest(dict(header), *(part for name in sorted(tensors) for part in (name, tensors[name])))


@dataclass(frozen=True)
class Entry:
    """An entry of the store.

    size: in bytes. used: when it was last used, to the day, in seconds since 1970. notes: its header, stage and key
    among others; None where it is damaged.
    """

    stage: str
    key: str
    size: int
    used: float
    notes: Mapping[str, str] | None


class Store:
    """Results by stage ("models", "evidence") and key, in a folder that processes may share.

    shared: take a folder that all users of the machine can write to; whoever writes there can plant results. A group's
    folder needs no asking. What the store makes in the folder is as open as the folder; entries follow the umask.
    Raises ValueError where the folder can't be written to, or is open to all users unasked.
    """

    def __init__(self, folder: str | Path, *, shared: bool = False) -> None:
        self.folder = expanded(folder)
        self._locks = True  # until one could not be had
        self._held: set[str] = set()
        self._temporary: dict[Path, list[str]] = {}  # names of temporary files, by folder
        self._list: Path | None = None  # of keys that are held, for other processes
        try:
            self.folder.mkdir(0o775, parents=True, exist_ok=True)
            if not shared:
                self._check_closed()
            self._mode = stat.S_IMODE(self.folder.stat().st_mode)
            self._subfolder("locks")
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ValueError(
                f"the cache folder must be writable; {self.folder} is not: {error.strerror}"
                " (choose another with --cache-dir or VAECORE_CACHE)"
            ) from None

    def _check_closed(self) -> None:
        """Raise ValueError where users other than the owner and the group can write to the folder or one in it."""
        if os.name != "posix":
            return  # other systems' permissions are not in the mode
        for folder in (self.folder, *(Path(part) for part in os.scandir(self.folder) if part.is_dir())):
            if folder.stat().st_mode & stat.S_IWOTH:
                raise ValueError(
                    f"the cache must be closed to other users, who could plant results; all can write to {folder}"
                    f" (`chmod o-w {folder}`, or take it as it is: --shared-cache, or Store(..., shared=True))"
                )

    def _subfolder(self, name: str) -> Path:
        """A folder in the cache's; one that is new is as open as that, whatever the umask."""
        folder = self.folder / name
        with suppress(FileExistsError):
            folder.mkdir()
            with suppress(OSError):  # not every file system has modes
                folder.chmod(self._mode)
        return folder

    def get(
        self, stage: str, key: str, compute: Callable[[], Tensors], *, notes: Mapping[str, str] | None = None
    ) -> Tensors:
        """The tensors stored under `key`; if there are none, compute and store them.

        notes: texts to keep in the entry. A damaged entry, a full disk or a lock that can't be had gives a
        StoreWarning; the tensors are still returned.
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
        _touch(path)
        return tensors

    def write(
        self, stage: str, key: str, tensors: Tensors, *, seconds: float, notes: Mapping[str, str] | None = None
    ) -> bool:
        """Store tensors, the seconds that they took and notes; False, with a warning, if they cannot be written."""
        path = self._path(stage, key)
        header = {**(notes or {}), "stage": stage, "key": key, "seconds": f"{seconds:.6g}"}
        try:
            self._subfolder(stage)
            if self._locks and self._was_interrupted(path):  # without locks another process may be writing
                sweep(path.parent, path.name, older=0)
            write_tensors(path, tensors, header)
        except OSError as error:
            cause = error.strerror or error
            message = f"a result could not be kept in {path.parent}: {cause}; the next run computes it again"
            warnings.warn(StoreWarning(message), stacklevel=2)
            return False
        return True

    def _was_interrupted(self, path: Path) -> bool:
        """Whether a killed process left temporary files of an entry, before this store first wrote to its folder."""
        if path.parent not in self._temporary:  # looked at once, as it may hold a hundred thousand files
            self._temporary[path.parent] = []
            with suppress(OSError):
                self._temporary[path.parent] = [one.name for one in path.parent.iterdir() if one.suffix == ".tmp"]
        return any(name.startswith(f".{path.name}.") for name in self._temporary[path.parent])

    def lock(self, key: str, *, blocking: bool = True) -> ExitStack:
        """Hold the lock of a key, while its entry is computed, until the result is closed.

        Raises filelock.Timeout where another process holds it, unless blocking. Where none can be had, the first time
        gives a StoreWarning.
        """
        path = self.folder / "locks" / f"{key}.lock"
        return locked(path, without=self._unlocked, blocking=blocking, mode=self._mode & 0o666 | 0o600)

    def _unlocked(self, error: OSError) -> None:
        if self._locks:
            self._locks = False
            message = (
                f"results are computed without locks, as there are none to be had in {self.folder / 'locks'}:"
                f" {error.strerror or error}; processes that share the cache may compute the same"
            )
            warnings.warn(StoreWarning(message), stacklevel=4)

    def hold(self, entries: Iterable[tuple[str, str]]) -> None:
        """Keep others from clearing entries, there or to come, as long as this object lives; they count as used.

        entries: each a stage and a key.
        """
        keys = {key: stage for stage, key in entries if key not in self._held}
        for key, stage in keys.items():
            _touch(self._path(stage, key))
        if not keys:
            return
        if self._list is None:
            token = secrets.token_hex(16)
            self._list, lock = self._subfolder("locks") / f"{token}{_HELD}", self.lock(token)
            weakref.finalize(self, _let_go, self._list, lock)
        self._held |= set(keys)
        with suppress(OSError):  # a full disk costs others' time, should they clear what is used here
            with self._list.open("a", encoding="utf-8") as file:
                file.write("".join(f"{key}\n" for key in keys))
            self._list.chmod(self._mode & 0o666 | 0o600)

    def _held_elsewhere(self) -> set[str]:
        """Keys that other stores hold, in this process or another; what killed processes left is removed."""
        keys: set[str] = set()
        for file in sorted((self.folder / "locks").glob(f"*{_HELD}")):
            if file == self._list:
                continue
            try:
                with self.lock(file.name.removesuffix(_HELD), blocking=False) as lock:
                    if self._locks:  # else anybody may be at work
                        _let_go(file, lock)
                        continue
            except Timeout:
                pass
            with suppress(FileNotFoundError):  # it has just ended
                keys |= set(file.read_text(encoding="utf-8").splitlines())
        return keys

    def header(self, stage: str, key: str) -> dict[str, str] | None:
        """Stage, key, seconds and notes of an entry, of which nothing else is read; None where it is not whole."""
        header = _header(self._path(stage, key))
        return header if header and header.get("key") == key and header.get("stage") == stage else None

    def has(self, stage: str, key: str) -> bool:
        """Whether there is an entry, which may be damaged."""
        return os.path.exists(self._path(stage, key))  # noqa: PTH110  # Path.exists may raise

    def entries(self) -> list[Entry]:
        """All entries, in order of stage and key."""
        entries = []
        for file, header in self._entries():
            with suppress(FileNotFoundError):  # another process cleared it
                status = file.stat()
                entries.append(Entry(file.parent.name, file.stem, status.st_size, status.st_mtime, header))
        return sorted(entries, key=lambda entry: (entry.stage, entry.key))

    def clear(self, entries: Iterable[Entry] | None = None) -> list[Entry]:
        """Delete entries, by default all, their locks, and what killed processes left of them; returns what is deleted.

        What another process holds or computes stays, and so do files that are not the store's.
        """
        entries, held = list(self.entries() if entries is None else entries), self._held_elsewhere()
        deleted = []
        for entry in entries:
            if entry.key in held:
                continue
            with suppress(Timeout), self.lock(entry.key, blocking=False):
                self._path(entry.stage, entry.key).unlink(missing_ok=True)
                deleted.append(entry)
        for entry in deleted:
            (self.folder / "locks" / f"{entry.key}.lock").unlink(missing_ok=True)
        for stage in {entry.stage for entry in entries}:
            sweep(self.folder / stage, "*.safetensors")
        return deleted

    def _entries(self) -> Iterator[tuple[Path, dict[str, str] | None]]:
        """The store's own files, each with its header, None where it is damaged; the folder may hold others."""
        for file in self.folder.glob("*/*.safetensors"):
            if not os.path.isfile(file):  # noqa: PTH113  # Path.is_file may raise
                continue
            header = _header(file)
            if header is None:
                if re.fullmatch("[0-9a-f]{32}", file.stem):  # a digest
                    yield file, None
            elif header.get("key") == file.stem and header.get("stage") == file.parent.name:
                yield file, header

    def _path(self, stage: str, key: str) -> Path:
        return self.folder / stage / f"{key}.safetensors"


def _header(file: Path) -> dict[str, str] | None:
    """The texts of a safetensors file; None where it is damaged or not there."""
    try:
        with safe_open(file, framework="pt") as entry:
            return dict(entry.metadata() or {})
    except (SafetensorError, OSError):
        return None


def _touch(path: Path) -> None:
    """Note that an entry is used."""
    with suppress(OSError):  # it is not there, or another user's
        if time.time() - path.stat().st_mtime > _DAY:
            os.utime(path)


def _let_go(file: Path, lock: ExitStack) -> None:
    """Remove a list of held keys, and its lock."""
    with suppress(OSError):  # another user's
        file.unlink(missing_ok=True)
        lock.close()
        file.with_suffix(".lock").unlink(missing_ok=True)
