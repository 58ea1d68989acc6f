"""Keys follow the code: every line that a result can depend on moves its key, and no comment or docstring does."""

import ast
import importlib
import json
import linecache
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import vaecore
from vaecore.suite.study import sources
from vaecore.suite.study.sources import code_digest, digest_of, look_again, sources_of_module
from vaecore.suite.study.study import Study
from vaecore.suite.study.tasks import OwnFunction, Task

# Run on a copy of the package. Prints, for a task of each family: the files and libraries that its code and that of its
# inputs depends on, the modules that its import loads, and the tasks whose keys each edit moves.
SCRIPT = r"""
import ast, importlib, inspect, json, sys
from pathlib import Path
import numpy, scipy.special, sklearn.linear_model, torch, torchvision
from vaecore.suite.plugin.figure_tasks import draw_figure
from vaecore.suite.study import collect, sources
from vaecore.suite.study.cleaning import ATTACKED, CLEANING, MAJORITY
from vaecore.suite.study.conditions import CLEAN, INSIDE, JOINT, LBFGS, MIX, PURIFIED
from vaecore.suite.study.contact_sheet import sheet_tasks
from vaecore.suite.study.decisions import DECISIONS
from vaecore.suite.study.draws import DRAWS
from vaecore.suite.study.models import made, train_made
from vaecore.suite.study.outside import SCORES
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.sections import outside
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.study import Study, accuracy_tasks
from vaecore.suite.study.tasks import Task
from vaecore.suite.study.trials import trial_tasks

package = Path(sys.argv[1]).resolve()
setup = Setup(Dataset("digits", ""), Protocol(Profile("tiny", 1, 4, 4, 4)), device=torch.device("cpu"))
tasks = {f"training {kind}": setup.weights(kind, 0) for kind in ("vae", "classifier", "autoencoder")}
tasks |= {
    "training made": Task(train_made),
    "made": Task(made),
    "attack": setup.attack(LBFGS, 0, (0, 4)),
    "adaptive attack": setup.attack(JOINT(1), 0, (0, 4)),
    "draws": DRAWS.tasks(setup, CLEAN)[0],
    "scores": SCORES.tasks(setup, INSIDE)[0],
    "detection": outside.tasks(Study(setup, None))[-1],
    "cleaning": CLEANING.tasks(setup, CLEAN)[0],
    "attacked purifier": ATTACKED.tasks(setup, PURIFIED(1, label=MAJORITY))[0],
    "decisions": DECISIONS.tasks(setup, MIX)[0],
    "trials": [*trial_tasks(setup).values()][0],
    "contact sheet": sheet_tasks(setup)[0],
    "accuracy": accuracy_tasks(setup)[0],
    "figure": Task(draw_figure),
}


def anew(value):
    '''A copy that has not computed its key.'''
    if isinstance(value, tuple):
        return tuple(map(anew, value))
    if not isinstance(value, Task):
        return value
    return Task(value.function, value.arguments, {name: anew(of) for name, of in value.inputs.items()}, value.stage)


def functions(value):
    if isinstance(value, tuple):
        return set().union(*map(functions, value))
    if not isinstance(value, Task):
        return set()
    return {value.function}.union(*map(functions, value.inputs.values()))


def keys():
    for function in vars(sources).values():
        if hasattr(function, "cache_clear") and function is not sources.sources_of:  # as no import changes
            function.cache_clear()
    return {name: anew(task).key for name, task in tasks.items()}


def sources_of(function):
    file, module = Path(inspect.getsourcefile(function)).resolve(), function.__module__
    return sources.sources_of(file, module.rpartition(".")[0])


before = keys()
reached = {name: [sources_of(function) for function in functions(task)] for name, task in tasks.items()}
files = {name: sorted({file for part in parts for file in part.files}) for name, parts in reached.items()}
assert all(file.is_relative_to(package) for each in files.values() for file in each)


def moved():
    after = keys()
    return [name for name in tasks if after[name] != before[name]]


def edit(file, text):
    file.write_text(text, encoding="utf-8")
    sources._read.pop(file)  # as `look_again` does once its module has been loaded anew


def reworded(text):
    lines = text.splitlines(keepends=True)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            line, column = lines[node.lineno - 1], node.col_offset
            lines[node.lineno - 1] = line[:column] + line[column:].replace('\"\"\"', '\"\"\"Anew. ', 1)
    return "# A comment.\n" + "".join(lines).replace("\n\n\n", "\n\n\n# Another.\n\n")


every = sorted({file for each in files.values() for file in each})
moves = {}
for file in every:
    text = file.read_text(encoding="utf-8")
    edit(file, text + "\n_changed = 1\n")
    moves[file.relative_to(package).as_posix()] = moved()
    edit(file, text)
assert moved() == []
texts = {file: file.read_text(encoding="utf-8") for file in every}
for file, text in texts.items():
    assert "\"\"\"" not in text or reworded(text) != text
    edit(file, reworded(text))
by_words = moved()
for file, text in texts.items():
    edit(file, text)

versions, version = {}, sources.version
for library in ("torch", "numpy", "scipy", "scikit-learn", "matplotlib", "rich", "loky", "safetensors"):
    sources.version = lambda name: "0.0.1" if name == library else version(name)
    versions[library] = moved()
sources.version = lambda name: f"{version(name)}+cu999"
versions["another build"] = moved()

loaded = {}
for name, task in tasks.items():
    for module in [module for module in sys.modules if module.partition(".")[0] == "vaecore"]:
        del sys.modules[module]
    importlib.import_module(task.function.__module__)
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] == "vaecore"]
    loaded[name] = [Path(module.__file__).resolve().relative_to(package).as_posix() for module in modules]

print(json.dumps({
    "files": {name: [file.relative_to(package).as_posix() for file in each] for name, each in files.items()},
    "libraries": {name: sorted({one for part in parts for one in part.libraries}) for name, parts in reached.items()},
    "moves": moves,
    "by_words": by_words,
    "versions": versions,
    "loaded": loaded,
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(vaecore.__file__).parent, folder / "vaecore", ignore=shutil.ignore_patterns("__pycache__"))
    process = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-c", SCRIPT, str(folder)],
        capture_output=True,
        check=False,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.slow
def test_a_line_in_any_file_that_a_task_can_reach_moves_its_key_and_no_other(found):
    assert len(found["moves"]) > 60
    for file, moved in found["moves"].items():
        assert moved == [name for name, files in found["files"].items() if file in files], file


@pytest.mark.slow
def test_comments_and_docstrings_move_no_key(found):
    assert found["by_words"] == []


@pytest.mark.slow
def test_versions_of_libraries_that_compute_move_keys_and_others_do_not(found):
    names = [*found["files"]]
    assert found["versions"]["torch"] == found["versions"]["numpy"] == names
    assert set(found["versions"]["scikit-learn"]) >= {"decisions", "scores"}
    assert set(found["versions"]["scipy"]) >= {"decisions", "draws"}
    for library in ("matplotlib", "rich", "loky", "safetensors", "another build"):
        assert found["versions"][library] == [], library


@pytest.mark.slow
def test_what_an_import_loads_is_among_the_files(found):
    """Which says nothing of what is imported later, and needs none of the code that reads import statements."""
    for name, files in found["loaded"].items():
        # `toolkit.py` only says that names are imported when they are used.
        assert {*files} - {*found["files"][name]} <= {"vaecore/toolkit.py"}, name


@pytest.mark.slow
def test_files_that_lists_kept_by_hand_left_out_are_among_them(found):
    for name, file in (
        ("training autoencoder", "models/_training.py"),
        ("decisions", "reconstruction/_likelihood.py"),
        ("trials", "suite/study/trials.py"),
        ("scores", "suite/study/outside.py"),
        ("detection", "suite/study/outside.py"),
        ("training made", "suite/study/models.py"),
        *((name, "_batch_sizes.py") for name in found["files"] if name.partition(" ")[0] not in ("training", "made")),
    ):
        assert f"vaecore/{file}" in found["files"][name], (name, file)


# Modules that are loaded anew, as in a notebook


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A module `notebook_maker`, which imports `notebook_part`; both are imported."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "notebook_part.py").write_text("def part():\n    return 1\n", encoding="utf-8")
    text = "import notebook_part\n\n\ndef make():\n    return notebook_part.part() + 1\n"
    (tmp_path / "notebook_maker.py").write_text(text, encoding="utf-8")
    yield [importlib.import_module(f"notebook_{name}") for name in ("maker", "part")]
    for name in ("maker", "part"):
        sys.modules.pop(f"notebook_{name}", None)


def edit(module):
    file = Path(module.__file__)
    status = file.stat()
    file.write_text(file.read_text(encoding="utf-8").replace("1", "2"), encoding="utf-8")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))  # the loader looks at whole seconds


def keys(maker):
    """By each way to them."""
    return [
        Task(maker.make).key,
        OwnFunction(maker.make).key,
        digest_of(sources_of_module("notebook_maker")),
    ]


LOOKS = [
    lambda maker: OwnFunction(maker.make).key,
    lambda _: Study.of(SimpleNamespace(dataset=SimpleNamespace(name="mine")), None),
]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_key_is_of_the_code_in_memory_and_moves_once_an_edited_module_is_loaded_anew(modules, place, look):
    maker, before, count = modules[0], keys(modules[0]), look_again()
    edit(modules[place])
    assert maker.make() == 2
    assert (keys(maker), look_again()) == (before, count)  # the old code still runs
    importlib.reload(modules[place])
    assert maker.make() == 3
    look(maker)
    assert [key == old for key, old in zip(keys(maker), before, strict=True)] == [False] * 3
    assert look_again() == count + 1
    importlib.reload(modules[place])


def test_a_module_that_is_loaded_later_counts_as_it_will_be_loaded(modules):
    maker, part = modules
    del sys.modules["notebook_part"]
    before, count = keys(maker), look_again()
    sys.modules["notebook_part"] = part
    assert (keys(maker), look_again()) == (before, count)
    del sys.modules["notebook_part"]
    assert keys(maker) == before
    edit(part)
    assert keys(maker)[2] != before[2]


def test_a_script_counts_as_it_was_when_it_started(tmp_path):
    script = tmp_path / "script.py"
    text = """
from pathlib import Path
from vaecore.suite.study.tasks import OwnFunction
def own():
    pass
if __name__ == "__main__":
    before = OwnFunction(own).key
    file = Path(__file__)
    file.write_text(file.read_text() + "more = 1")
    assert OwnFunction(own).key == before
"""
    script.write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, str(script)], check=True, env=environment)  # noqa: S603  # our own script


def test_a_function_that_stands_in_no_file_has_no_key(tmp_path):
    namespace, text, file = {}, "def cell(): pass", str(tmp_path / "cell.py")
    exec(compile(text, file, "exec"), namespace)  # noqa: S102  # as a notebook does
    linecache.cache[file] = (1, None, [text], file)
    with pytest.raises(ValueError, match="cell must stand in a file, so that a change to it is noticed"):
        code_digest(namespace["cell"])


def test_a_parser_that_stumbles_over_another_thread_is_asked_again(monkeypatch):
    """As in Python 3.11, which counts the depth of trees for all threads together."""
    parse, errors = ast.parse, [SystemError("AST constructor recursion depth mismatch (before=60, after=206)")] * 2

    def stumbling(source):
        if errors:
            raise errors.pop()
        return parse(source)

    monkeypatch.setattr(sources.ast, "parse", stumbling)
    assert ast.dump(sources._parsed(b"x = 1")) == ast.dump(parse("x = 1"))
    errors.append(SystemError("another"))
    with pytest.raises(SystemError, match="another"):
        sources._parsed(b"x = 1")
