"""The wheel: one import name, with the findings inside, which an installed command judges."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vaecore.suite.judging.registry import load_registry

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which the wheel is unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)  # noqa: S603
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_its_only_import_name_is_vaecore(installed):
    names = sorted(path.name.partition("-")[0] for path in installed.iterdir())
    assert names == ["vaecore", "vaecore"]  # and what is known of the distribution
    assert {path.suffix for path in installed.glob("*/")} == {"", ".dist-info"}


def test_it_has_all_files_of_the_package_and_the_findings(installed):
    def files(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    findings = {Path("findings") / path for path in files(ROOT / "claims")}
    assert files(installed / "vaecore") == files(ROOT / "vaecore") | findings
    assert {"registry.toml", "README.md"} < {path.name for path in findings}
    assert len([path for path in findings if path.match("test_*.py")]) == 6
    names = {path.name for path in files(installed / "vaecore")}
    assert {"py.typed", "__init__.pyi", "toolkit.pyi", "page.html.j2", "page.css", "page.js"} < names


def test_its_entry_points_are_a_command_and_a_plugin(installed):
    (text,) = installed.glob("*.dist-info/entry_points.txt")
    assert text.read_text(encoding="utf-8").split() == [
        *("[console_scripts]", "vaecore", "=", "vaecore.suite.cli:main"),
        *("[pytest11]", "vaecore.suite.plugin.options", "=", "vaecore.suite.plugin.options"),
    ]


@pytest.mark.slow
def test_what_is_installed_judges_the_findings_inside(installed, pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed))
    images = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    np.savez(pytester.path / "mine.npz", images=images, labels=np.arange(60) % 3)
    claims = len(load_registry("mine.npz").claims)
    given = ("--dataset=mine.npz", "--cache-dir=cache", "--plan", "-k", "B4")
    result = pytester.run(sys.executable, "-m", "vaecore", "claims", *given)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}", f"collected {claims} items / *", "* draws, clean *"])
    result.stdout.no_fnmatch_line("*warning*")
    code = "from vaecore.suite.judging.findings import FOLDER; print(FOLDER)"
    pytester.run(sys.executable, "-c", code).stdout.fnmatch_lines([str(installed / "vaecore/findings")])
