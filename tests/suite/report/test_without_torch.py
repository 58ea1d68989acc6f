"""Comparing reports, drawing pages and writing reports import no torch, and comparing starts at once."""

import os
import subprocess
import sys
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import vaecore.suite
from vaecore.suite.results import to_json

SUITE = Path(vaecore.suite.__file__).parent
REPORT = SUITE.parents[1] / "reports" / "mnist"
NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, NoTorch())
"""
COMMAND = """
import runpy
runpy.run_module("vaecore", run_name="__main__")
"""
WRITE = """
import json
from pathlib import Path
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.report.figures.files import draw
from vaecore.suite.report.writing import write
results = json.loads(Path(sys.argv[1]).read_text())
drawn = draw(results, "latent-space")
write(Path(sys.argv[2]), results, {f"latent-space.{suffix}": content for suffix, content in drawn.items()})
"""


def python(code, *arguments):
    """Run code in a new process that keeps what it compiles; gives its output and the seconds of CPU time it took."""
    before = getrusage(RUSAGE_CHILDREN)
    result = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    after = getrusage(RUSAGE_CHILDREN)
    assert result.returncode == 0, result.stderr
    return result.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_what_renders_and_judges_imports_no_torch():
    files = [SUITE / name for name in ("facts.py", "results.py", "images.py", "cli.py", "plugin/options.py")]
    files += [file for room in ("statistics", "judging", "report") for file in (SUITE / room).rglob("*.py")]
    assert len(files) > 30
    modules = [".".join(("vaecore.suite", *file.relative_to(SUITE).with_suffix("").parts)) for file in files]
    lines = "\n".join(f"import {name.removesuffix('.__init__')}" for name in modules)
    assert python(f"{lines}\nimport sys\nprint('torch' in sys.modules)")[0] == "False\n"


def test_reports_are_compared_at_once_without_torch():
    """In half a second of CPU time on an idle core, half of it for numpy and scipy; here within one."""
    seconds = []
    for _ in range(3):  # the first may compile
        output, took = python(NO_TORCH + COMMAND, "compare", REPORT, REPORT)
        seconds.append(took)
    assert "The two studies differ in nothing." in output
    assert min(seconds) < 1


def test_a_page_is_drawn_without_torch(results, files, tmp_path):
    (tmp_path / "results.json").write_bytes(to_json(results))
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert python(NO_TORCH + COMMAND, "page", tmp_path)[0] == f"{tmp_path / 'index.html'}\n"


def test_a_report_is_written_without_torch(results, tmp_path):
    (tmp_path / "results.json").write_bytes(to_json(results))
    python(NO_TORCH + WRITE, tmp_path / "results.json", tmp_path / "out")
    names = {"index.html", "summary.md", "detection.md", "decisions.md", "latent-space.png", "latent-space.svg"}
    names |= {"claims.csv", "conditions.csv", "detection.csv"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*names, "results.json"}
