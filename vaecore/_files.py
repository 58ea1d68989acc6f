"""Files and folders: writing that is atomic, locks, the user's own folders. Imports no torch."""

import glob
import os
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

_LIVE = 300.0  # seconds within which a process may still write to its temporary file


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or none: under a temporary name in the same folder, flushed to disk, then renamed.

    Who may read it follows from the user's umask.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # a disk that fails may not remove it either
            temporary.unlink(missing_ok=True)
        raise


def sweep(folder: Path, name: str, *, older: float = _LIVE) -> None:
    """Remove the temporary files that killed processes left in a folder while they wrote a file of this name.

    name: may be a pattern. older: seconds since the last change; what is newer may be another process's, at work. What
    can't be removed stays.
    """
    for left in glob.glob(f".{name}.*.tmp", root_dir=folder):  # noqa: PTH207  # Path.glob may raise
        with suppress(OSError):  # another process was quicker, or the file is another user's
            if time.time() - (folder / left).lstat().st_mtime >= older:
                (folder / left).unlink()


def locked(path: Path, *, without: Callable[[OSError], None], blocking: bool = True, mode: int = 0o644) -> ExitStack:
    """Hold the lock of a file until the result is closed.

    without: called where no lock can be had, as on some network file systems; the result then holds nothing. mode: of
    the file. Raises filelock.Timeout where another process holds it, unless blocking.
    """
    held = ExitStack()
    try:
        held.enter_context(FileLock(path, mode=mode, fallback_to_soft=False).acquire(blocking=blocking))
    except Timeout:
        raise
    except OSError as error:
        without(error)
    return held


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the user's home folder in place of `~`; raises FileNotFoundError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FileNotFoundError(f"{path} needs a home folder; there is none (give the whole path)") from None


def user_cache(instead: str) -> Path:
    """This package's folder in the user's cache; instead: names another, for the FileNotFoundError without a home."""
    try:
        return expanded(platformdirs.user_cache_path("vaecore"))
    except (RuntimeError, FileNotFoundError):  # as the version of platformdirs has it
        raise FileNotFoundError(
            f"there is no home folder, and so no user's cache; name a folder with {instead}"
        ) from None
