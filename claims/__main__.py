"""`python -m claims cache`: what the cache holds, and how to clear it; `page`: draw a report's page again."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from claims import page
from claims.plugin import cache_folder
from vaecore._store import Store


def main() -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m claims", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cache = commands.add_parser("cache", help="show what the cache holds, or clear it")
    cache.add_argument("--cache-dir", metavar="DIR", help="default: VAECORE_CACHE, else the user's cache folder")
    cache.add_argument("--clear", action="store_true", help="delete all models and evidence")
    cache.set_defaults(run=_cache)
    drawn = commands.add_parser("page", help="draw index.html again from a report's results.json and figures")
    drawn.add_argument("folder", type=Path, metavar="FOLDER", help="for instance reports/mnist")
    drawn.set_defaults(run=_page)
    options = parser.parse_args()
    try:
        status: int = options.run(options)
    except ValueError as error:
        parser.error(str(error))
    return status


def _cache(options: argparse.Namespace) -> int:
    folder = cache_folder(options.cache_dir)
    if not folder.is_dir():
        raise ValueError(
            f"there is no cache in {folder} (nothing has been computed yet, or it is elsewhere: --cache-dir)"
        )
    store = Store(folder)
    grid = Table("stage", "entries", "MiB")
    for usage in store.usage():
        grid.add_row(usage.stage, f"{usage.entries:,}", f"{usage.size / 2**20:.1f}")
    if options.clear:
        store.clear()
        grid.caption = "deleted"
    console = Console()
    console.print(str(store.folder), soft_wrap=True, markup=False, highlight=False)  # whole, to be copied
    console.print(grid)
    return 0


def _page(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{page.write(options.folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
