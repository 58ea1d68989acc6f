"""Installed, the package has one import name and its findings inside, and no other project notices it."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path

import installer
import numpy as np
import pytest
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

import vaecore
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.plugin.code import git_revision, source_digest

ROOT = Path(__file__).parents[1]
BUILD = "import sys, hatchling.build as build; getattr(build, f'build_{sys.argv[1]}')(sys.argv[2])"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Give a function that builds the package as a wheel, an sdist, or the wheel of an editable install."""

    def build(kind):
        folder = tmp_path_factory.mktemp(kind)
        command = [sys.executable, "-c", BUILD, kind, str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603  # our own script
        (file,) = folder.iterdir()
        return file

    return build


class Environment:
    """A virtual environment with a wheel installed in it; what else is needed comes from the one that runs."""

    def __init__(self, folder, wheel):
        venv.create(folder, with_pip=False)
        paths = sysconfig.get_paths("venv", vars=dict.fromkeys(("base", "platbase", "installed_base"), str(folder)))
        self.site, self.scripts = Path(paths["purelib"]), Path(paths["scripts"])
        self.python = str(self.scripts / "python")
        (self.site / "0.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
        kind = "posix" if os.name == "posix" else "win-amd64"
        with WheelFile.open(wheel) as source:
            destination = SchemeDictionaryDestination(paths, interpreter=self.python, script_kind=kind)
            installer.install(source, destination, {})


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("installed"), built("wheel"))


@pytest.fixture(scope="module")
def editable(built, tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("editable"), built("editable"))


@pytest.fixture
def project(pytester, monkeypatch):
    """Give a function that makes a user's project of these files; nothing outside the environment is found."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def make(files):
        for name, text in files.items():
            path = pytester.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return make


# What is in it


def test_a_wheel_has_one_import_name_and_what_is_known_of_the_distribution(installed):
    names = {path.name.partition("-")[0] for path in installed.site.iterdir()}
    assert names == {"0.pth", "vaecore"}
    assert {path.suffix for path in installed.site.glob("*/")} == {"", ".dist-info"}


def test_a_wheel_has_all_files_of_the_package_and_the_findings(installed):
    def files(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    findings = {Path("findings") / path for path in files(ROOT / "claims")}
    assert files(installed.site / "vaecore") == files(ROOT / "vaecore") | findings
    assert {"registry.toml", "README.md"} < {path.name for path in findings}
    assert len([path for path in findings if path.match("test_*.py")]) == 6
    names = {path.name for path in files(installed.site / "vaecore")}
    assert {"py.typed", "__init__.pyi", "toolkit.pyi", "page.html.j2", "page.css", "page.js"} < names


def test_its_entry_points_are_a_command_and_a_plugin(installed):
    (text,) = installed.site.glob("*.dist-info/entry_points.txt")
    assert text.read_text(encoding="utf-8").split() == [
        *("[console_scripts]", "vaecore", "=", "vaecore.suite.cli:main"),
        *("[pytest11]", "vaecore.suite.plugin.options", "=", "vaecore.suite.plugin.options"),
    ]


def test_one_place_has_the_version_and_the_metadata_say_where_the_project_is(installed, pytester):
    code = (
        "import importlib.metadata as m, sys, vaecore; print(vaecore.__version__, m.version('vaecore'), *sys.modules)"
    )
    version, of_distribution, *modules = pytester.run(installed.python, "-c", code).outlines[0].split()
    assert version == of_distribution == vaecore.__version__
    assert "torch" not in modules
    (metadata,) = installed.site.glob("*.dist-info/METADATA")
    urls = [line.split(": ")[1] for line in metadata.read_text(encoding="utf-8").split("\n") if "Project-URL" in line]
    assert [url.split(", ")[0] for url in urls] == ["Source", "Documentation", "Changelog", "Issues"]


def test_an_sdist_has_the_sources_and_no_reports(built):
    sdist = built("sdist")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 2)[1] for name in archive.getnames()}
    assert {"vaecore", "claims", "tests", "pyproject.toml", "hatch_build.py", "LICENSE", "README.md"} < names
    assert "reports" not in names
    assert sdist.stat().st_size < 2**20


# Beside it


OPTIONS = ("--device", "--runs", "--dataset", "--workers")
PROJECTS = {  # of others, with names like ours
    "a package claims": {
        "app/claims/__init__.py": "RATE = 0.1\n",
        "app/conftest.py": "",
        "app/test_it.py": "from claims import RATE\n\n\ndef test_it():\n    assert RATE == 0.1\n",
    },
    "a package bench": {
        "bench/__init__.py": "NAME = 'theirs'\n",
        "test_it.py": "import bench\n\n\ndef test_it():\n    assert bench.NAME == 'theirs'\n",
    },
    "options": {
        "conftest.py": "def pytest_addoption(parser):\n"
        + "".join(f"    parser.addoption({name!r}, default='theirs')\n" for name in OPTIONS),
        "test_it.py": "def test_it(pytestconfig):\n"
        f"    assert {{pytestconfig.getoption(name) for name in {OPTIONS}}} == {{'theirs'}}\n",
    },
    "a fixture study": {
        "test_it.py": "import pytest\n\n\n@pytest.fixture\ndef study():\n    return 'theirs'\n\n\n"
        "def test_it(study):\n    assert study == 'theirs'\n",
    },
}


@pytest.mark.parametrize("safe", [(), ("-P",)], ids=["python -m pytest", "pytest"])
@pytest.mark.parametrize("how", ["installed", "editable"])
@pytest.mark.parametrize("files", PROJECTS.values(), ids=PROJECTS)
def test_a_project_with_names_like_ours_does_not_notice(files, how, safe, project, pytester, request):
    """With -P the working folder is not on the path, as in the command `pytest`."""
    project(files)
    environment = request.getfixturevalue(how)
    result = pytester.run(environment.python, *safe, "-m", "pytest", "-W", "error", "-pno:cacheprovider", "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["plugins: *vaecore*", "*= 1 passed in *"])


@pytest.mark.parametrize("how", ["installed", "editable"])
def test_nothing_beside_the_package_can_be_imported(how, project, pytester, request):
    project({})
    names = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"} - {"vaecore", "__pycache__"}
    names = sorted(name for name in names if name.isidentifier())
    assert {"bench", "claims", "docs", "examples", "tests", "conftest", "noxfile", "hatch_build"} <= {*names}
    code = f"import importlib.util, vaecore; print([name for name in {names} if importlib.util.find_spec(name)])"
    pytester.run(request.getfixturevalue(how).python, "-P", "-c", code).stdout.fnmatch_lines(["[[]]"])


# What it does


def test_an_editable_install_is_of_this_folder(editable, project, pytester):
    project({})
    code = "import vaecore.suite.judging.findings as it; print(it.__file__); print(it.FOLDER)"
    file, findings = pytester.run(editable.python, "-c", code).outlines
    assert Path(file) == ROOT / "vaecore" / "suite" / "judging" / "findings.py"
    assert Path(findings) == ROOT / "claims"


@pytest.mark.parametrize("how", ["installed", "editable"])
def test_a_python_starts_without_a_word_and_needs_nothing_that_pyproject_does_not_list(how, pytester, request):
    """An installer may read dependencies there and not in the wheel."""
    environment = request.getfixturevalue(how)
    result = pytester.run(
        environment.python, "-I", "-S", "-c", f"import site; site.addsitedir({str(environment.site)!r})"
    )
    assert (result.ret, result.errlines) == (0, [])
    (metadata,) = environment.site.glob("*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").split("\n")
    needed = {line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line and "extra" not in line}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert needed == {*listed}


def test_an_install_has_the_source_digest_of_its_checkout(installed, editable, project, pytester):
    project({})
    code = "from vaecore.suite.plugin.code import *; print(source_digest(), git_revision())"
    found = [pytester.run(one.python, "-c", code).outlines[0].split(" ", 1) for one in (installed, editable)]
    assert [digest for digest, _ in found] == [source_digest()] * 2
    assert [revision for _, revision in found] == ["None", str(git_revision())]
    changed = installed.site / "vaecore" / "findings" / "test_latent.py"
    whole = changed.read_bytes()
    for content, same in ((whole.replace(b"\n", b"\r\n"), True), (whole + b"# edited\n", False)):
        changed.write_bytes(content)
        assert pytester.run(installed.python, "-c", code).outlines[0].startswith(source_digest()) == same
    changed.write_bytes(whole)


@pytest.mark.slow
def test_what_is_installed_judges_the_findings_inside(installed, project, pytester):
    project({})
    images = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    np.savez(pytester.path / "mine.npz", images=images, labels=np.arange(60) % 3)
    claims = len(load_registry("mine.npz").claims)
    given = ("--dataset=mine.npz", "--cache-dir=cache", "--plan", "-k", "B4")
    result = pytester.run(installed.scripts / "vaecore", "claims", *given)
    assert result.ret == 0
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}", f"collected {claims} items / *", "* draws, clean *"])
    result.stdout.no_fnmatch_line("*warning*")
    code = "from vaecore.suite.judging.findings import FOLDER; print(FOLDER)"
    pytester.run(installed.python, "-c", code).stdout.fnmatch_lines([str(installed.site / "vaecore/findings")])
