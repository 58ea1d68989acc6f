"""Studies: images on which an attack failed are left out, tables carry what they look at, and plans compute nothing."""

from dataclasses import dataclass

import pytest
import torch

from vaecore import Store
from vaecore.suite.statistics.columns import Origin
from vaecore.suite.study import collect
from vaecore.suite.study.cleaning import ATTACKED, CLEANING
from vaecore.suite.study.conditions import (
    CLEAN,
    CONFIDENT,
    FGSM,
    GAUSSIAN,
    GAUSSIAN_CONFIDENT,
    INSIDE,
    LBFGS,
    MIX,
    PURIFIED,
    SIGN,
)
from vaecore.suite.study.decisions import DECISIONS
from vaecore.suite.study.draws import MANY_DRAWS
from vaecore.suite.study.executors import Here
from vaecore.suite.study.outside import SCORES
from vaecore.suite.study.perturbations import perturb
from vaecore.suite.study.plan import NotComputedError, Plan
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.study import Study, TooFewError

NAN = float("nan")
PLANTED = {  # success and L2 size of the attacks, in two runs on four images or six
    "fgsm": ([[1, 0, 1, 1, 0, 1], [1, 1, 1, 0, 0, 1]], [[1] * 6] * 2),
    "lbfgs": ([[1, 1, 0, 1], [1, 1, 1, 1]], [[1, 2, NAN, 0], [1, 2, 3, 4]]),
    "lbfgs-0.98": ([[1, 1, 1, 1], [1, 1, 0, 1]], [[1, 1, 1, 1], [1, 1, NAN, 1]]),
}


@dataclass
class Planted(Plan):
    """A plan whose attacks do what is planted, and whose draws tell the place of each image alone."""

    setup: Setup | None = None

    def results(self, tasks, title=""):
        return [self._result(task) for task in tasks]

    def _result(self, task):
        place = {index: place for place, index in enumerate(self.setup.indices.tolist())}
        places = torch.tensor([place[index] for index in task.inputs["shard"].tensors["indices"].tolist()])
        if task.function is perturb:
            success, l2 = (torch.tensor(rows[task.arguments["seed"]]) for rows in PLANTED[task.arguments["kind"]])
            return {"success": success.bool()[places], "l2": l2[places]}
        attack = task.inputs["attack"].arguments
        success = torch.tensor(PLANTED["fgsm"][0][attack["seed"]]).bool() if attack["kind"] == "fgsm" else torch.ones(6)
        labels = torch.zeros(len(places), task.arguments["draws"], dtype=torch.int16)
        return {"place": places, "draw_label": labels, "success": success[places].bool(), "l2": torch.ones(len(places))}


@pytest.fixture
def study(tmp_path):
    protocol = Protocol(Profile("test", 2, 6, 4, 3), shard=3)
    setup = Setup(Dataset("digits", "for tests"), protocol, device=torch.device("cpu"))
    return Study(setup, Planted(Store(tmp_path), setup=setup))


@pytest.mark.parametrize(
    ("conditions", "places", "kept"),
    [
        ((CLEAN,), range(6), 1.0),
        ((CLEAN, LBFGS), [0, 1], 0.5),
        ((GAUSSIAN,), [0, 1], 0.5),
        ((CONFIDENT,), [0, 1, 3], 0.75),
        ((GAUSSIAN_CONFIDENT, "clean"), [0, 1, 3], 0.75),
        (("lbfgs", "lbfgs-0.98"), [0, 1], 0.5),
    ],
)
def test_images_on_which_an_attack_failed_are_left_out_of_all_and_the_share_is_told(study, conditions, places, kept):
    tables = study.paired(*conditions)
    for condition, table in zip(conditions, tables, strict=True):
        name = condition if isinstance(condition, str) else study.setup.protocol.name(condition)
        assert table["place"].tolist() == [[*places]] * 2
        assert table["place"].origin == table.distinct.origin == Origin(frozenset({name}), kept)


def test_tables_tell_how_often_an_attack_failed_and_leave_its_failures_out_if_asked(study):
    clean, attacked = study.paired(CLEAN, FGSM(1))
    assert clean["place"].tolist() == attacked["place"].tolist() == [[*range(6)]] * 2
    assert clean["place"].origin.failed == 0
    assert attacked["place"].origin.failed == pytest.approx(4 / 12)
    assert (clean["place"] + attacked["place"]).origin == Origin(frozenset({"clean", "fgsm-0.2"}), 1.0, 4 / 12)
    for table in study.paired(CLEAN, FGSM(1), reached=True):
        assert table["place"].tolist() == [[0, 2, 5]] * 2
        assert (table["place"].origin.kept, table["place"].origin.failed) == (0.5, 0.0)


def test_an_attack_that_never_succeeds_is_an_error_that_says_so(study, monkeypatch):
    monkeypatch.setitem(PLANTED, "lbfgs", ([[0, 0, 0, 1], [1, 1, 1, 1]], [[NAN, NAN, NAN, 1]] * 2))
    tables = study.paired(CLEAN, LBFGS)  # a plan may be made nonetheless
    with pytest.raises(TooFewError, match="lbfgs must succeed on two images or more in all runs; got 1 of 4"):
        _ = tables[0]["place"]


def test_tables_have_the_images_and_draws_that_are_asked_for(study):
    assert study.table(CLEAN)["place"].tolist() == [[*range(6)]] * 2  # of two shards
    assert study.table(FGSM(1), 4)["place"].tolist() == [[*range(4)]] * 2
    assert study.table("clean")["draw_label"].shape == (2, 6, 10)
    assert study.table(CLEAN, of=MANY_DRAWS)["draw_label"].shape == (2, 6, 50)
    assert study.table("sign-0.1", draws=3)["draw_label"].shape == (2, 4 + 2, 3)
    assert study.paired(LBFGS, draws=20, of=MANY_DRAWS)[0]["draw_label"].shape == (2, 2, 20)
    with pytest.raises(ValueError, match="draws must be from 1 to 10, those that were collected; got 11"):
        _ = study.table(SIGN(0.5), draws=11)["place"]


@pytest.mark.parametrize("name", ["fgsm", "fgsm-0.11", "pgd-0.1", "joint-0.2", "lbfgs-0.9", "", "clean-0.1"])
def test_unknown_names_are_refused_with_those_that_are_known(study, name):
    for ask in (study.table, study.paired):
        with pytest.raises(ValueError, match=rf"condition must be one of clean, fgsm-0\.05, .*; got '{name}'"):
            ask(name)
    with pytest.raises(ValueError, match="conditions must be those of the study; got"):
        collect.threats(study, ["clean", f"no-{name}"])


class Refusing(Here):
    """An executor that may not be asked."""

    def submit(self, task, needs):
        raise AssertionError(f"{task.title} must not be computed")


def test_a_plan_notes_the_tasks_of_all_tables_before_the_first_look(tiny, tmp_path):
    plan = Study.of(tiny.setup, Store(tmp_path), Refusing()).planning()
    asked = [
        plan.table(CLEAN),
        *plan.paired(FGSM(1), LBFGS),
        plan.table(INSIDE, of=SCORES),
        *plan.paired(LBFGS, of=CLEANING),
        plan.table(PURIFIED(1, label="blur"), of=ATTACKED),
        plan.table(MIX, of=DECISIONS),
    ]
    noted = {task.title for task in plan.plan.asked.values()}
    assert noted == {
        *("draws, clean", "draws, fgsm-0.2", "draws, lbfgs", "attack, lbfgs"),
        *("scores, inside", "cleaning, lbfgs", "judging attacks, blur", "decisions, outside-mix"),
    }
    for table in asked:
        with pytest.raises(NotComputedError):
            _ = table.columns
    for look in (lambda: plan.runs, plan.accuracies, lambda: plan.digests):
        with pytest.raises(NotComputedError):
            look()
    assert plan.facts == tiny.facts


def test_facts_say_what_is_looked_at(tiny):
    facts = tiny.facts
    assert (facts.dataset, facts.test_images, facts.runs, facts.seeds) == ("mine.npz", 12, 2, (0, 1))
    assert facts.images == {
        tiny.setup.protocol.name(one): tiny.setup.count(one) for one in tiny.setup.protocol.conditions
    }
    assert facts.covers == "training runs and test images"
    assert not facts.too_little
    assert not facts.reference
    assert not facts.fixed
