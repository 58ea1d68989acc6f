"""What is computed at once is all that claims and report ask for afterwards."""

from dataclasses import replace

import pytest

from vaecore._store import NotKeptError, Store
from vaecore.suite.study import calibration, cleaning, everything
from vaecore.suite.study import draws as evidence
from vaecore.suite.study import trials as sanity
from vaecore.suite.study.decisions import ASKED
from vaecore.suite.study.draws import CONDITIONS
from vaecore.suite.study.outside import INSIDE


@pytest.fixture
def fresh(tiny, tmp_path, monkeypatch):
    """The tiny study, with an empty store, and attacks of a step or two."""
    monkeypatch.setattr(cleaning, "STEPS", 2)
    monkeypatch.setattr(cleaning, "QUERIES", 2)
    return replace(tiny, store=Store(tmp_path), wall_seconds={}, looked_at=set())


def asked_afterwards(study):
    for condition in CONDITIONS:
        study.table(condition)
    for name in (INSIDE, *study.outside.sources):
        study.outside.scores(name)
    for condition in ASKED:
        study.decisions.table(condition)
    for epsilon in (0.1, 0.2):
        study.cleaning.attacked(cleaning.MAJORITY, epsilon)
    sanity.flags(study)
    cleaning.gather(study)
    calibration.gather(study)


def test_nothing_is_left_to_compute(fresh):
    everything.compute(fresh)
    again = replace(fresh, wall_seconds={}, looked_at=set())
    with again.store.only_reading():
        asked_afterwards(again)


def test_lbfgs_is_run_once_for_all_families(fresh, monkeypatch):
    attacked = []

    def perturb(vae, classifier, shard, condition, twin_l2=None):
        attacked.append((condition, shard.seed))
        return evidence.perturb(vae, classifier, shard, condition, twin_l2)

    for module in ("study", "cleaning"):
        monkeypatch.setattr(f"claims.{module}.perturb", perturb)

    def collect(vae, classifier, shard, condition, l2, precision, attack):
        if attack is None:  # which has it run
            attacked.append((condition, shard.seed))
        return evidence.collect(vae, classifier, shard, condition, l2, precision, attack)

    monkeypatch.setattr("claims.study.collect", collect)
    everything.compute(fresh)
    assert sorted(one for one in attacked if one[0] == "lbfgs") == [("lbfgs", seed) for seed in fresh.seeds]


def test_what_is_left_out_is_missed(fresh, monkeypatch):
    monkeypatch.setattr(sanity, "tasks", list)
    everything.compute(fresh)
    again = replace(fresh, wall_seconds={}, looked_at=set())
    with again.store.only_reading(), pytest.raises(NotKeptError):
        asked_afterwards(again)
