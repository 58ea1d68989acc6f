"""A study that is killed goes on where it stopped, and ends in the same bits as one that nobody disturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import claims

# One process imports torch, then forks a child for each study: a study itself takes a second, the import several.
# At its trigger a child says so and stands still, so that the signal always finds it in the same place.
SCRIPT = """
import json, os, signal, sys, time, traceback
from contextlib import contextmanager
from pathlib import Path
import numpy as np, torch, torch._dynamo  # which the first optimiser would import, in every child
from vaecore.suite.study import study
from vaecore import _store
from vaecore.models._networks import ClassifierConfig, VAEConfig

study.SHARD = 4
study.reference_configs = lambda train: (
    VAEConfig(latent_size=3, hidden_size=16, epochs=1, batch_size=100),
    ClassifierConfig(channels=(3, 4), hidden_size=8, epochs=2, batch_size=100),
)


def run(cache, trigger, say):
    def stand_still(*_):
        say("now")
        time.sleep(60)

    calls = {"collect": 0, "fsync": 0}

    def counted(name, function):
        def call(*arguments):
            calls[name] += 1
            result = function(*arguments)
            if trigger == f"{name}-{calls[name]}":
                stand_still()
            return result
        return call

    class Store(_store.Store):
        def get(self, stage, key, compute):
            def noted():
                with open(f"{cache}.computed", "a") as file:
                    print(key, file=file)
                return compute()
            return super().get(stage, key, noted)

    @contextmanager
    def meter(title):
        yield lambda done, of: stand_still() if trigger == f"{title}, {done} of {of}" else None

    study.collect = counted("collect", study.collect)
    _store.os.fsync = counted("fsync", os.fsync)
    looked_at = study.Study(
        study.Dataset("digits", "small"), study.Profile("tiny", 2, 8, 4, 2), Store(cache), device=torch.device("cpu"),
        meter=meter,
    )
    columns = {}
    for condition in ("fgsm-0.2", "gaussian-lbfgs", "lbfgs"):
        columns |= {f"{condition}/{name}": column for name, column in looked_at.table(condition).columns.items()}
    np.savez(f"{cache}.npz", **columns)


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

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, which this system cannot")

SIGINT, SIGKILL = 2, 9
# Trigger, signal, exit status, entries finished by then: of 4 models, then 4 shards of FGSM, and 4 of L-BFGS and noise
# with 2 of the attack.
KILLS = {
    "training": ("training the classifier of run 2 of 2, 7 of 18", SIGKILL, -SIGKILL, 3),
    "inner evidence": ("collect-7", SIGKILL, -SIGKILL, 12),  # while the noise that needs it waits
    "write": ("fsync-6", SIGKILL, -SIGKILL, 5),
    "interrupt in evidence": ("collect-3", SIGINT, 130, 6),
    "interrupt in write": ("fsync-6", SIGINT, 130, 5),
}
ENTRIES = 4 + 4 + 4 + 2


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """What became of each study: undisturbed, then each killed and run again."""
    folder = tmp_path_factory.mktemp("studies")
    undisturbed = str(folder / "undisturbed")
    plan = [(undisturbed, None, 0)]
    for name, (trigger, number, _, _) in KILLS.items():
        cache = str(folder / name.replace(" ", "-"))
        plan += [(cache, trigger, number), (cache, None, 0)]
    found = subprocess.run(  # noqa: S603  # our own script
        [sys.executable, "-c", SCRIPT, json.dumps(plan)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=150,
        text=True,
        cwd=Path(claims.__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    first, *others = (json.loads(line) for line in found.stdout.splitlines())
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
    with np.load(folder / "undisturbed.npz") as expected, np.load(folder / f"{name.replace(' ', '-')}.npz") as found:
        assert sorted(found) == sorted(expected)
        assert len(expected) == 3 * 16
        for column in expected:
            assert found[column].dtype == expected[column].dtype, column
            assert found[column].tobytes() == expected[column].tobytes(), column
