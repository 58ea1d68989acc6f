"""Where the cache is. Imports no torch."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(option: str | None) -> Path:
    """The cache folder: the option, else VAECORE_CACHE, else one in the user's cache."""
    return Path(option or os.environ.get("VAECORE_CACHE") or user_cache_path("vaecore")).expanduser()
