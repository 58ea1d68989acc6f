"""A study that is killed goes on where it stopped, and ends in the same bits as one that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# One process imports torch, then forks a child for each study: a study itself takes a second, the import several.
# At its trigger, a call of a function by its number, a child says so and stands still, so that the signal always finds
# it in the same place.
SCRIPT = """
import json, os, signal, sys, time, traceback
from pathlib import Path
import numpy as np, sklearn.datasets, torch, torch._dynamo  # which every child would import otherwise
from vaecore import ClassifierConfig, Store, VAEConfig
from vaecore.suite import FGSM, GAUSSIAN, LBFGS, Study
from vaecore.suite.study import draws, models, perturbations, setup
from vaecore.suite.study.executors import Here
from vaecore.suite.study.protocol import Profile, Protocol

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
setup.reference_configs = lambda train: (
    VAEConfig(latent_size=3, hidden_size=16, epochs=1, batch_size=100),
    ClassifierConfig(channels=(3, 4), hidden_size=8, epochs=2, batch_size=100),
)
CONDITIONS = FGSM(1), GAUSSIAN, LBFGS
protocol = Protocol(Profile("tiny", 2, 8, 4, 2), shard=4)
small = setup.Setup(setup.Dataset("digits", "small"), protocol, device=torch.device("cpu"))
TASKS = [task for one in CONDITIONS for task in draws.DRAWS.tasks(small, one)]
[task.key for task in TASKS]  # reads the images and the code


def run(cache, trigger, say):
    def count(owner, name):
        of_module = not isinstance(owner, dict)
        function, calls = getattr(owner, name) if of_module else owner[name], []

        def counted(*arguments, **settings):
            result = function(*arguments, **settings)
            calls.append(result)
            if trigger == f"{name}-{len(calls)}":
                say("now")
                time.sleep(60)
            return result

        if of_module:
            setattr(owner, name, counted)
        else:
            owner[name] = counted

    class Noting(Here):
        def submit(self, task, needs):
            with open(f"{cache}.computed", "a") as file:
                print(task.key, file=file)
            return super().submit(task, needs)

    for place in ((models._REFERENCES, "classifier"), (perturbations, "lbfgs"), (draws, "reconstruct"), (os, "fsync")):
        count(*place)
    study = Study.of(small, Store(cache), Noting())
    study.plan.compute(TASKS, "evidence")
    tables = {protocol.name(one): study.table(one).columns for one in CONDITIONS}
    np.savez(f"{cache}.npz", **{f"{name}/{key}": value for name, one in tables.items() for key, value in one.items()})


for cache, trigger, number in json.loads(sys.argv[1]):
    Path(f"{cache}.computed").write_text("")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            run(cache, trigger, lambda text: os.write(writing, text.encode()))
            code = 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    reached = os.read(reading, 3) == b"now"
    os.close(reading)
    if reached:
        os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    files = {str(path): path.stat().st_mtime_ns for path in Path(cache).rglob("*") if path.is_file()}
    computed = Path(f"{cache}.computed").read_text().split()
    print(json.dumps({"reached": reached, "code": code, "files": files, "computed": computed}), flush=True)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, which this system cannot"),
]

SIGINT, SIGKILL = 2, 9
# Trigger, signal, exit status, entries finished by then: of 4 models, 2 shards of L-BFGS, then 8 of draws.
KILLS = {
    "training": ("classifier-2", SIGKILL, -SIGKILL, 2),
    "attack": ("lbfgs-2", SIGKILL, -SIGKILL, 5),
    "write": ("fsync-6", SIGKILL, -SIGKILL, 5),
    "interrupt in draws": ("reconstruct-3", SIGINT, 130, 8),
    "interrupt in write": ("fsync-6", SIGINT, 130, 5),
}
ENTRIES = 4 + 2 + 8


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """What became of each study: undisturbed, then each killed and run again."""
    folder = tmp_path_factory.mktemp("studies")
    undisturbed = str(folder / "undisturbed")
    plan = [(undisturbed, None, 0)]
    for name, (trigger, number, _, _) in KILLS.items():
        cache = str(folder / name.replace(" ", "-"))
        plan += [(cache, trigger, number), (cache, None, 0)]
    output = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-c", SCRIPT, json.dumps(plan)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=150,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout
    first, *others = (json.loads(line) for line in output.splitlines())
    pairs = zip(others[::2], others[1::2], strict=True)
    return folder, first, dict(zip(KILLS, pairs, strict=True))


def entries(outcome):
    return {Path(path).stem: time for path, time in outcome["files"].items() if path.endswith(".safetensors")}


def temporary(outcome):
    return [path for path in outcome["files"] if path.endswith(".tmp")]


def test_an_undisturbed_study_computes_each_entry_once(studies):
    _, first, _ = studies
    assert (first["reached"], first["code"]) == (False, 0)
    assert len(first["computed"]) == ENTRIES == len(set(first["computed"]))
    assert set(entries(first)) == set(first["computed"])
    assert temporary(first) == []


@pytest.mark.parametrize("name", KILLS)
def test_the_signal_finds_the_study_where_it_should(studies, name):
    _, _, killed = studies
    _, _, code, finished = KILLS[name]
    stopped, _ = killed[name]
    assert (stopped["reached"], stopped["code"]) == (True, code)
    assert len(entries(stopped)) == finished
    # Only a process killed without notice while it wrote may leave a half-written file.
    assert len(temporary(stopped)) == (name == "write")


@pytest.mark.parametrize("name", KILLS)
def test_a_study_run_again_does_the_rest_and_only_that(studies, name):
    _, first, killed = studies
    stopped, again = killed[name]
    assert (again["reached"], again["code"]) == (False, 0)
    before, after = entries(stopped), entries(again)
    assert sorted([*before, *again["computed"]]) == sorted(first["computed"])
    assert before.items() <= after.items()  # nor was a finished file touched
    assert set(after) == set(entries(first))
    assert temporary(again) == []


@pytest.mark.parametrize("name", KILLS)
def test_a_study_run_again_ends_in_the_same_bits(studies, name):
    folder, _, _ = studies
    with np.load(folder / "undisturbed.npz") as expected, np.load(folder / f"{name.replace(' ', '-')}.npz") as again:
        assert sorted(again) == sorted(expected)
        assert {column.partition("/")[0] for column in expected} == {"fgsm-0.2", "gaussian-lbfgs", "lbfgs"}
        for column in expected:
            assert again[column].dtype == expected[column].dtype, column
            assert again[column].tobytes() == expected[column].tobytes(), column
