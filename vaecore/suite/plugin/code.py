"""Which code gave results: a digest of its source, and its revision in git. Imports no torch."""

import subprocess
from pathlib import Path

from vaecore.suite.judging.findings import FOLDER
from vaecore.toolkit import digest


def source_digest() -> str:
    """Digest of all source of this package and of the findings' tests; the same of an install and of its checkout."""
    package = Path(__file__).parents[2]
    files = {f"findings/{file.name}": file for file in FOLDER.glob("*.py")}
    files |= {file.relative_to(package).as_posix(): file for file in package.rglob("*.py")}
    parts = [(name, files[name].read_bytes().replace(b"\r\n", b"\n")) for name in sorted(files)]  # git may end lines so
    return digest(*(part for pair in parts for part in pair))


def git_revision() -> str | None:
    """Revision of the code, with a mark where it has changes that are not committed; None outside a checkout."""
    git = ("git", "-C", str(Path(__file__).parents[3]))
    try:
        # Installed, this file may lie within a repository of somebody else's, which does not track it.
        subprocess.run((*git, "ls-files", "--error-unmatch", __file__), capture_output=True, check=True)  # noqa: S603
        head = subprocess.run((*git, "rev-parse", "HEAD"), capture_output=True, text=True, check=True)  # noqa: S603
        changed = subprocess.run(  # noqa: S603
            (*git, "status", "--porcelain", "--", "*.py", "*.toml"), capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")
