"""The command `vaecore`: judge the claims, compare reports, draw a page, print tables, show or clear the cache."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vaecore.suite.cache import cache_folder
from vaecore.suite.text import printable
from vaecore.toolkit import write_atomically


class _Parser(argparse.ArgumentParser):
    """Its errors are one line, in which nothing acts on a terminal."""

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and exit with 2."""
        super().error(printable(message))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["claims"]:  # pytest parses the rest, `--help` too
        return _claims(words[1:])
    parser = _Parser(prog="vaecore", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("claims", help="judge the claims; options: `vaecore claims --help`, and all of pytest's")
    two = commands.add_parser("compare", help="compare two reports: what moved, and whether by more than chance")
    two.add_argument("a", type=Path, metavar="A", help="a results.json, or the folder of a report")
    two.add_argument(
        "b", type=Path, metavar="B", help="another, for instance of other models, another version or another machine"
    )
    form = two.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, all digits")
    form.add_argument("--markdown", action="store_true", help="as Markdown, for a pull request")
    two.add_argument("--fail-on-move", action="store_true", help="exit with 1 where a claim moved")
    two.set_defaults(run=_compare)
    carry = commands.add_parser("carry-over", help="which findings of one data set carry over to another")
    carry.add_argument("a", type=Path, metavar="A", help="a results.json, or the folder of a report")
    carry.add_argument("b", type=Path, metavar="B", help="another, of another data set")
    carry.add_argument("folder", type=Path, metavar="FOLDER", help="carry-over.md and carry-over.svg are written there")
    carry.set_defaults(run=_carry_over)
    page = commands.add_parser("page", help="draw index.html again from a report's results.json and figures")
    page.add_argument("folder", type=Path, metavar="FOLDER", help="for instance reports/mnist")
    page.set_defaults(run=_page)
    table = commands.add_parser("table", help="print or export a table of a report")
    table.add_argument("name", choices=("claims", "conditions", "detection"), help="a row for each of these")
    table.add_argument("a", type=Path, metavar="A", help="a results.json, or the folder of a report")
    export = table.add_mutually_exclusive_group()
    export.add_argument("--csv", metavar="FILE", help="write all columns as CSV; - is the standard output")
    export.add_argument("--parquet", metavar="FILE", help="write all columns as Parquet, where pyarrow is installed")
    table.set_defaults(run=_table)
    cache = commands.add_parser("cache", help="show what the cache holds, or clear it")
    cache.add_argument("--cache-dir", metavar="DIR", help="default: VAECORE_CACHE, else the user's cache folder")
    cache.add_argument("--clear", action="store_true", help="delete all models and evidence")
    cache.set_defaults(run=_cache)
    options = parser.parse_args(words)
    try:
        status: int = options.run(options)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    return status


def _claims(words: Sequence[str]) -> int:
    import pytest  # noqa: PLC0415  # other commands start without it

    from vaecore.suite.judging.findings import FOLDER  # noqa: PLC0415

    # pytest would rewrite the asserts of its plugins' packages, of which this one is imported by now.
    quiet = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    return int(pytest.main([str(FOLDER), f"--rootdir={Path.cwd()}", "-p", "no:cacheprovider", *quiet, *words]))


def _compare(options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vaecore.suite.report import compare  # noqa: PLC0415
    from vaecore.suite.results import load  # noqa: PLC0415

    a, b = (load(path, oldest=compare.OLDEST_SCHEMA) for path in (options.a, options.b))
    comparison = compare.compare(a, b, names=(str(options.a), str(options.b)))
    if options.json:
        sys.stdout.write(json.dumps(comparison.to_json(), indent=1, allow_nan=False) + "\n")
    elif options.markdown:
        sys.stdout.write(compare.markdown(comparison))
    else:
        console = Console()
        style = {"color": console.color_system is not None, "unicode": "utf" in console.encoding}
        sys.stdout.write(compare.text(comparison, width=console.width, **style))
    return int(options.fail_on_move and bool(comparison.of(compare.MOVED)))


def _carry_over(options: argparse.Namespace) -> int:
    from vaecore.suite.report import carryover  # noqa: PLC0415
    from vaecore.suite.results import load  # noqa: PLC0415

    a, b = load(options.a), load(options.b)
    sys.stdout.write(f"{printable(str(carryover.write(a, b, options.folder)))}\n")
    return 0


def _page(options: argparse.Namespace) -> int:
    from vaecore.suite.report import page  # noqa: PLC0415

    sys.stdout.write(f"{printable(str(page.write(options.folder)))}\n")
    return 0


def _table(options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415

    from vaecore.suite.report.tables import TABLES, text  # noqa: PLC0415
    from vaecore.suite.results import load  # noqa: PLC0415

    table = TABLES[options.name](load(options.a))
    if options.parquet is not None:
        write_atomically(Path(options.parquet), table.parquet())
    elif options.csv == "-":
        sys.stdout.write(table.csv())
    elif options.csv is not None:
        write_atomically(Path(options.csv), table.csv().encode())
    else:
        console = Console()
        style = {"color": console.color_system is not None, "unicode": "utf" in console.encoding}
        sys.stdout.write(text(table, width=console.width, **style))
    return 0


def _cache(options: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from vaecore import Store  # noqa: PLC0415

    folder = cache_folder(options.cache_dir)
    if not folder.is_dir():
        raise ValueError(
            f"there is no cache in {folder} (nothing has been computed yet, or it is elsewhere: --cache-dir)"
        )
    store = Store(folder, shared=True)  # to look and to clear, nobody needs to be trusted
    grid = Table("stage", "entries", "MiB")
    for usage in store.usage():
        grid.add_row(Text(printable(usage.stage)), f"{usage.entries:,}", f"{usage.size / 2**20:.1f}")
    if options.clear:
        store.clear()
        grid.caption = "deleted"
    console = Console()
    console.print(Text(printable(str(store.folder))), soft_wrap=True)  # whole, to be copied
    console.print(grid)
    return 0


if __name__ == "__main__":
    sys.exit(main())
