"""Does a project that has nothing to do with claims notice that the plugin is installed?"""

import sys
from typing import get_args

import pytest

from vaecore import OUTSIDE_LOADED
from vaecore.suite.judging.findings import FOLDER
from vaecore.suite.plugin.options import OPTIONS
from vaecore.suite.study.computing import MOST_WORKERS
from vaecore.suite.study.protocol import PILOT_SEED
from vaecore.toolkit import Precision

TEST = """
import sys
import pytest
import bench
import claims.core


@pytest.mark.claim(5)
def test_it(study, claim, pytestconfig):
    option = pytestconfig.getoption
    assert (study, claim, claims.core.NAME, bench.NAME) == ("study", "claim", "claims", "bench")
    assert (option("--device"), option("--dataset"), option("--workers")) == ("theirs", None, 2.5)
    assert pytestconfig.option.runs == 7
    assert "torch" not in sys.modules
"""
CONFTEST = """
import sys
import pytest


def pytest_addoption(parser):
    parser.addoption("--device", default="theirs")
    parser.addoption("--dataset")
    parser.addoption("--workers", type=float, default=2.5)
    parser.addoption("--of-mine", dest="runs", default=7)


def pytest_unconfigure():
    print("slow imports:", sorted({"matplotlib", "numpy", "scipy", "torch"} & set(sys.modules)))


@pytest.fixture
def study():
    return "study"


@pytest.fixture
def claim():
    return "claim"
"""


@pytest.fixture
def other(pytester):
    """A project that has packages, options and fixtures of the same names as ours."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        **{"test_it": TEST, "bench": "NAME = 'bench'", "claims/__init__": "", "claims/core": "NAME = 'claims'"}
    )
    (pytester.path / "registry.toml").write_text('name = "of another tool"\n', encoding="utf-8")
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\naddopts = ["--strict-markers"]\nfilterwarnings = ["error"]\n'
    )
    return pytester


@pytest.mark.parametrize("options", [(), ("--collect-only",), ("-n1",)])
def test_a_project_with_names_like_ours_does_not_notice(other, options):
    result = other.runpytest_subprocess("-pno:cacheprovider", "-s", *options)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*1 test collected*" if options == ("--collect-only",) else "*1 passed*"])
    result.stdout.no_fnmatch_line("dataset: *")
    result.stdout.fnmatch_lines(["slow imports: [[]]"])


def test_options_that_another_has_taken_are_named_when_claims_need_them(project, refused):
    (project.path / "conftest.py").write_text(CONFTEST.partition("@pytest.fixture")[0], encoding="utf-8")
    (project.path / "test_it.py").write_text("def test_it(study):\n    pass\n", encoding="utf-8")
    taken = "--dataset, --device, --workers"
    refused(project(), f"{taken} must be options of the claims; another plugin or conftest.py has taken them *")


def test_the_module_that_every_project_loads_is_light(pytester):
    code = "import sys, vaecore.suite.plugin.options; print({'torch', 'numpy', 'scipy', 'rich'} & set(sys.modules))"
    pytester.run(sys.executable, "-c", code).stdout.fnmatch_lines(["set()"])


NO_TORCH = """
import sys, pytest
status = pytest.main(["-q", "-pno:cacheprovider", *sys.argv[1:]])
print("torch" in sys.modules, int(status))
"""


@pytest.mark.parametrize(
    ("option", "status"),
    [
        ("--collect-only", 0),
        *((option, 4) for option in ("--runs=0", "--dataset=none.npz", "--dataset=nothing", "--ood=nothing")),
        *((option, 4) for option in ("--vae=none.pt", "--bounds=none.toml", "--epsilon=3", "--first-seed=-1")),
    ],
)
def test_a_list_of_the_claims_and_a_mistake_in_an_option_wait_for_no_torch(pytester, option, status):
    result = pytester.run(sys.executable, "-c", NO_TORCH, str(FOLDER), option)
    result.stdout.fnmatch_lines([f"False {status}"])


def test_help_says_what_the_code_does():
    """Help is written where nothing of this can be imported, but for the profiles."""
    assert OPTIONS["--precision"]["choices"] == get_args(Precision)
    assert f"at most {MOST_WORKERS};" in OPTIONS["--workers"]["help"]
    assert f"seeds from {PILOT_SEED} " in OPTIONS["--pilot"]["help"]
    assert f"{', '.join(OUTSIDE_LOADED)}, or your own" in OPTIONS["--ood"]["help"]
