"""Where the cache is. Imports no torch."""

import os
from pathlib import Path

from vaecore.toolkit import expanded, user_cache


def cache_folder(option: str | None) -> Path:
    """The cache folder: the option, else VAECORE_CACHE, else one in the user's cache."""
    chosen = option or os.environ.get("VAECORE_CACHE")
    return expanded(chosen) if chosen else user_cache("--cache-dir or VAECORE_CACHE")
