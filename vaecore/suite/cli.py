"""The command `vaecore`: judge claims, compare reports, draw a page, print tables, list or clear the cache."""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vaecore import __version__
from vaecore.suite.cache import cache_folder
from vaecore.suite.text import printable
from vaecore.toolkit import write_atomically

if TYPE_CHECKING:
    from vaecore.toolkit import Entry

_DAYS = {"d": 1, "w": 7}


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
    parser.add_argument("--version", action="version", version=f"vaecore {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, description: str, example: str) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name,
            help=description,
            description=f"{description[0].upper()}{description[1:]}.",
            epilog=f"For instance: vaecore {name} {example}",
        )
        return command

    commands.add_parser("claims", help="judge the claims; options: `vaecore claims --help`, and all of pytest's")
    two = add(
        "compare", "compare two reports: what moved, and whether by more than chance", "reports/mnist other/mnist"
    )
    two.add_argument("a", type=Path, metavar="A", help="a results.json, or the folder of a report")
    two.add_argument(
        "b", type=Path, metavar="B", help="another, for instance of other models, another version or another machine"
    )
    form = two.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, all digits")
    form.add_argument("--markdown", action="store_true", help="as Markdown, for a pull request")
    two.add_argument("--fail-on-move", action="store_true", help="exit with 1 where a claim moved")
    two.set_defaults(run=_compare)
    carry = add("carry-over", "which findings of one data set carry over to another", "reports/mnist reports/mine out")
    carry.add_argument("a", type=Path, metavar="A", help="a results.json, or the folder of a report")
    carry.add_argument("b", type=Path, metavar="B", help="another, of another data set")
    carry.add_argument("folder", type=Path, metavar="FOLDER", help="carry-over.md and carry-over.svg are written there")
    carry.set_defaults(run=_carry_over)
    page = add("page", "draw index.html again from a report's results.json and figures", "reports/mnist")
    page.add_argument("folder", type=Path, metavar="FOLDER", help="for instance reports/mnist")
    page.set_defaults(run=_page)
    table = add("table", "print or export a table of a report", "claims reports/mnist --csv claims.csv")
    table.add_argument("name", choices=("claims", "conditions", "detection"), help="a row for each of these")
    table.add_argument("a", type=Path, metavar="A", help="a results.json, or the folder of a report")
    export = table.add_mutually_exclusive_group()
    export.add_argument("--csv", metavar="FILE", help="write all columns as CSV; - is the standard output")
    export.add_argument("--parquet", metavar="FILE", help="write all columns as Parquet, where pyarrow is installed")
    table.set_defaults(run=_table)
    cache = add("cache", "list what the cache holds, by study and age, or clear it", "--older-than 30d --clear")
    cache.add_argument("--cache-dir", metavar="DIR", help="default: VAECORE_CACHE, else the user's cache folder")
    cache.add_argument(
        "--study", metavar="NAME", help="only what studies of this data set computed, as the list has it"
    )
    cache.add_argument(
        "--older-than", type=_days, metavar="AGE", help="only what has not been used for so long: 30d, 2w"
    )
    cache.add_argument(
        "--stale",
        action="store_true",
        help="only what no run of the code that is installed here can use: it is damaged, or other code of this package"
        " or other versions of libraries made it",
    )
    cache.add_argument(
        "--clear", action="store_true", help="delete what is listed, and not what a running process uses"
    )
    cache.add_argument(
        "--dry-run", action="store_true", help="with --clear: say what would be deleted, and delete nothing"
    )
    cache.set_defaults(run=_cache)
    options = parser.parse_args(words)
    try:
        status: int = options.run(options)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    return status


def _claims(words: Sequence[str]) -> int:
    if {"-h", "--help"} & {*words}:
        return _claims_help()
    import pytest  # noqa: PLC0415  # other commands start without it

    from vaecore.suite.judging.findings import FOLDER  # noqa: PLC0415

    # pytest would rewrite the asserts of its plugins' packages, of which this one is imported by now.
    quiet = ("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning")
    return int(pytest.main([str(FOLDER), f"--rootdir={Path.cwd()}", "-p", "no:cacheprovider", *quiet, *words]))


def _claims_help() -> int:
    from vaecore.suite.plugin.options import OPTIONS  # noqa: PLC0415  # it imports pytest

    parser = _Parser(
        prog="vaecore claims",
        usage="vaecore claims [options]",
        description="Judge the claims on a data set and models: train, attack, measure, give verdicts, write a report.",
        epilog="All options of pytest work, too: -k EXPRESSION or -m picks claims, -q says less; `pytest --help`.",
    )
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    parser.print_help()
    return 0


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
    from rich.table import Column, Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from vaecore import Store  # noqa: PLC0415
    from vaecore.suite.study.entries import is_stale, study_of  # noqa: PLC0415

    if options.dry_run and not options.clear:
        raise ValueError("--dry-run must come with --clear; without that, nothing is deleted")
    folder = cache_folder(options.cache_dir)
    if not folder.is_dir():
        raise ValueError(
            f"there is no cache in {folder} (nothing has been computed yet, or it is elsewhere: --cache-dir)"
        )
    store = Store(folder, shared=True)  # to look and to clear, nobody needs to be trusted
    now, every = time.time(), store.entries()
    studies = sorted({study_of(entry) for entry in every})
    if options.study is not None and options.study not in studies:
        raise ValueError(
            f"--study must be one that the cache has entries of, {', '.join(studies)}; got {options.study}"
        )
    stale = {entry.key for entry in every if is_stale(entry)}
    entries = [
        entry
        for entry in every
        if (options.study is None or study_of(entry) == options.study)
        and (options.older_than is None or now - entry.used > options.older_than * 86400)
        and (not options.stale or entry.key in stale)
    ]
    rows: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        rows.setdefault((study_of(entry), entry.stage), []).append(entry)
    grid = Table(
        "study", "stage", *(Column(name, justify="right") for name in ("entries", "MiB", "unused for", "stale"))
    )
    for (study, stage), members in sorted(rows.items()):
        ages = sorted(int((now - entry.used) / 86400) for entry in members)
        days = f"{ages[0]}" if ages[0] == ages[-1] else f"{ages[0]} to {ages[-1]}"
        grid.add_row(
            Text(printable(study)),
            Text(printable(stage)),
            f"{len(members):,}",
            _mebibytes(members),
            f"{days} day{'' if days == '1' else 's'}",
            f"{sum(entry.key in stale for entry in members):,}",
        )
    console = Console()
    console.print(Text(printable(str(store.folder))), soft_wrap=True)  # whole, to be copied
    console.print(grid)
    if options.dry_run:
        console.print(f"Would be deleted: {_amount(entries)}.")
    elif options.clear:
        deleted = store.clear(entries)
        console.print(f"Deleted: {_amount(deleted)}.")
        if len(deleted) < len(entries):
            console.print(f"Kept, as a running process uses them: {len(entries) - len(deleted):,}.")
    else:
        console.print(f"{_amount(entries)}.")
    return 0


def _days(text: str) -> int:
    """The days that an age stands for."""
    match = re.fullmatch(r"(\d+)([dw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"it must be a number of days or weeks, as 30d or 2w; got {text!r}")
    return int(match[1]) * _DAYS[match[2]]


def _amount(entries: "Sequence[Entry]") -> str:
    return f"{len(entries):,} {'entry' if len(entries) == 1 else 'entries'}, {_mebibytes(entries)} MiB"


def _mebibytes(entries: "Sequence[Entry]") -> str:
    return f"{sum(entry.size for entry in entries) / 2**20:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
