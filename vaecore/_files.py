"""Atomic writing of files. Imports no torch."""

import glob
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

_LIVE = 300.0  # seconds within which a process may still write to its temporary file


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or none: under a temporary name in the same folder, flushed to disk, then renamed."""
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


def sweep(folder: Path, name: str, *, older: float = _LIVE) -> None:
    """Remove the temporary files that killed processes left in a folder while they wrote a file of this name.

    older: seconds since the last change; what is newer may be another process's, at work. What can't be removed stays.
    """
    for left in glob.glob(f".{glob.escape(name)}.*.tmp", root_dir=folder):  # noqa: PTH207  # Path.glob may raise
        with suppress(OSError):  # another process was quicker, or the file is another user's
            if time.time() - (folder / left).lstat().st_mtime >= older:
                (folder / left).unlink()
