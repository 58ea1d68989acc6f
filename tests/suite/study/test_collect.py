"""What is listed beforehand is all that a report asks for, and what families share is computed once."""

from dataclasses import dataclass, field, replace

import pytest

from vaecore.suite.study import collect
from vaecore.suite.study.cleaning import CLEANING
from vaecore.suite.study.conditions import CONFIDENT, GAUSSIAN, GAUSSIAN_CONFIDENT, LBFGS
from vaecore.suite.study.decisions import DECISIONS
from vaecore.suite.study.draws import DRAWS
from vaecore.suite.study.executors import Here
from vaecore.suite.study.perturbations import perturb
from vaecore.suite.study.plan import Plan
from vaecore.suite.study.sections import trials
from vaecore.suite.study.study import Study
from vaecore.suite.study.tasks import Task

pytestmark = pytest.mark.slow


class Refusing(Here):
    """An executor that may not be asked."""

    def submit(self, task, needs):
        raise AssertionError(f"{task.title} must have been computed")


@dataclass
class Asked(Plan):
    """A plan that keeps the keys of what it is asked for."""

    keys: set = field(default_factory=set)

    def results(self, tasks, title=""):
        self.keys |= {task.key for task in tasks}
        return super().results(tasks, title)


@pytest.fixture(scope="module")
def computed(tiny):
    """The tiny study with all that is listed."""
    tiny.plan.compute(collect.tasks(tiny), "all")
    return tiny


@pytest.fixture
def again(computed):
    """The same study in another process, which may compute nothing."""
    return Study(replace(computed.setup), Asked(computed.plan.store, Refusing()))


def listed(tasks):
    """Keys of tasks, and of those that they need."""
    tasks, keys = [*tasks], set()
    while tasks:
        task = tasks.pop()
        if task.key not in keys:
            keys.add(task.key)
            tasks += [need for need in task.needs if isinstance(need, Task)]
    return keys


def test_nothing_is_left_to_compute(again):
    """Not even what other tests of the same study have computed."""
    sections = collect.everything(again)
    again.accuracies()
    _ = again.digests
    assert sections["decisions"] is not None
    assert again.plan.keys - listed(collect.tasks(again)) == set()
    assert again.plan.seconds == {}
    again.plan.keys.clear()
    names = ["clean", "joint-0.3", "outside/mirrored"]
    some = collect.looked_at(again, names)
    again.accuracies()
    _ = again.digests
    assert again.plan.keys - listed(collect.summary_tasks(again, names)) == set()
    assert some["conditions"] == {name: sections["conditions"][name] for name in names[:2]}
    cells = sections["detection"]["cells"]
    assert some["detection"]["cells"] == {name: {"mirrored": row["mirrored"]} for name, row in cells.items()}
    assert collect.looked_at(again, ["clean"])["detection"] is None


@pytest.mark.parametrize("names", [["clean"], ["joint-0.3"], ["outside/mirrored"], ["lbfgs", "fgsm-0.2"]], ids=str)
def test_what_a_summary_asks_for_is_listed_and_little_else(again, names):
    collect.looked_at(again, names)
    again.accuracies()
    _ = again.digests
    keys = listed(collect.summary_tasks(again, names))
    assert again.plan.keys - keys == set()
    unused = keys - listed(task for task in collect.tasks(again) if task.key in again.plan.keys)
    assert unused == set()


def test_what_is_left_out_of_the_list_is_missed(again, monkeypatch):
    trials.section(again)
    monkeypatch.setattr(collect, "trial_tasks", lambda _: {})
    assert again.plan.keys - listed(collect.tasks(again))


def attacks_of(tasks):
    """Attacks among tasks and all that they take, by condition and run."""
    keys = {}
    tasks = [*tasks]
    while tasks:
        task = tasks.pop()
        if task.function is perturb:
            keys.setdefault((task.arguments["kind"], task.arguments["seed"]), set()).add(task.key)
        inputs = [part for of in task.inputs.values() for part in (of if isinstance(of, tuple) else (of,))]
        tasks += [part for part in inputs if isinstance(part, Task)]
    return keys


def test_lbfgs_is_run_once_for_all_families_and_for_noise_of_its_size(tiny):
    families = {
        DRAWS: (LBFGS, GAUSSIAN, CONFIDENT, GAUSSIAN_CONFIDENT),
        CLEANING: (LBFGS, GAUSSIAN),
        DECISIONS: (LBFGS,),
    }
    every = [task for of, conditions in families.items() for one in conditions for task in of.tasks(tiny.setup, one)]
    attacks = attacks_of(every)
    for kind in ("lbfgs", "lbfgs-0.98"):
        assert [len(attacks[kind, seed]) for seed in tiny.setup.seeds] == [1, 1]


def test_threat_models_of_all_conditions(tiny):
    names = {tiny.setup.protocol.full_name(condition) for condition in collect.every_condition(tiny)}
    sentences = collect.threats(tiny, sorted(names))
    assert set(sentences) == names
    assert sentences["outside/mirrored"] == "No attacker: images of mirrored, which are not of the data set."
    assert all(sentence.endswith(".") for sentence in sentences.values())
