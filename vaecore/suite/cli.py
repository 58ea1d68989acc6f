"""`python -m claims`: `cache`, its size, and how to clear it; `compare`, two reports; `page`, a report's page again."""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vaecore._store import Store
from vaecore.suite.plugin.session import cache_folder
from vaecore.suite.report import compare, page
from vaecore.suite.results import load


def main() -> int:
    """Run the command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m claims", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cache = commands.add_parser("cache", help="show what the cache holds, or clear it")
    cache.add_argument("--cache-dir", metavar="DIR", help="default: VAECORE_CACHE, else the user's cache folder")
    cache.add_argument("--clear", action="store_true", help="delete all models and evidence")
    cache.set_defaults(run=_cache)
    two = commands.add_parser("compare", help="set two reports side by side: what moved, and whether beyond chance")
    two.add_argument("a", type=Path, metavar="A", help="a results.json, or the folder of a report")
    two.add_argument("b", type=Path, metavar="B", help="another, of other models, another version or machine")
    form = two.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, all digits")
    form.add_argument("--markdown", action="store_true", help="as Markdown, for a pull request")
    two.add_argument("--fail-on-move", action="store_true", help="exit with 1 where a claim moved")
    two.set_defaults(run=_compare)
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


def _compare(options: argparse.Namespace) -> int:
    found = compare.compare(load(options.a), load(options.b), names=(str(options.a), str(options.b)))
    if options.json:
        sys.stdout.write(json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n")
    elif options.markdown:
        sys.stdout.write(compare.markdown(found))
    else:
        console = Console()
        unicode = "utf" in console.encoding
        sys.stdout.write(
            compare.text(found, width=console.width, color=console.color_system is not None, unicode=unicode)
        )
    return int(options.fail_on_move and bool(found.of(compare.MOVED)))


def _page(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{page.write(options.folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
