"""Workers: what they compute is what one process would, they are asked for nothing that is kept, and failures show."""

import gc
import os
import pickle
import signal
import weakref
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from vaecore import Store, fit_classifier, fit_vae, load_images
from vaecore._store import digest
from vaecore.models._training import reference_configs
from vaecore.suite.study import workers
from vaecore.suite.study.draws import collect
from vaecore.suite.study.study import Dataset, Profile, Study

PROFILE = Profile("test", runs=1, images=600, lbfgs_images=20, adaptive_images=4)  # two shards


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Files of a VAE and a classifier that saw a few digits, for a moment."""
    folder, train = tmp_path_factory.mktemp("models"), load_images("digits", "train").take(slice(200))
    configs = [type(config)(epochs=2, batch_size=50) for config in reference_configs(train)]
    for name, fit, config in zip(("vae", "classifier"), (fit_vae, fit_classifier), configs, strict=True):
        fit(train, config, seed=0, device="cpu").save(folder / f"{name}.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in ("vae", "classifier")}


@pytest.fixture
def study(models, tmp_path):
    def make(count, folder="cache"):
        return Study(
            Dataset("digits", "for tests"),
            PROFILE,
            Store(tmp_path / folder),
            device=torch.device("cpu"),
            workers=count,
            **models,
        )

    return make


def kept(study, place):
    """A number for a place, computed once; with the process that computed it."""

    def compute():
        return {"of": torch.tensor([place, os.getpid()])}

    return study.store.get("evidence", digest("test", place), compute)["of"].tolist()


def stumbles(study, place):
    if place == 1:
        raise ArithmeticError(f"at {place}")
    return kept(study, place)


def dies(study, place):
    def compute():
        os.kill(os.getpid(), signal.SIGKILL)

    return study.store.get("evidence", digest("dies", place), compute)


def silent(_done, _of):
    pass


def test_workers_compute_and_this_process_reads(study):
    told = []
    found = study(2).each(kept, [(place,) for place in range(6)], lambda done, of: told.append((done, of)))
    assert [place for place, _ in found] == [*range(6)]
    assert os.getpid() not in {process for _, process in found}
    assert told == [(done, 6) for done in range(1, 7)]


def test_one_worker_is_this_process(study):
    told = []
    found = study(1).each(kept, [(place,) for place in range(3)], lambda done, of: told.append((done, of)))
    assert found == [[place, os.getpid()] for place in range(3)]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_what_is_kept_is_asked_of_nobody(study, monkeypatch):
    study(1).each(kept, [(0,), (1,), (2,)], silent)
    asked, original = [], workers.compute

    def compute(study, function, calls):
        asked.extend(calls)
        return original(study, function, calls)

    monkeypatch.setattr(workers, "compute", compute)
    one = study(2)
    assert one.each(kept, [(2,), (0,)], silent) == [[2, os.getpid()], [0, os.getpid()]]
    assert [place for place, _ in one.each(kept, [(0,), (3,)], silent)] == [0, 3]  # too few for a second process
    assert asked == []
    assert [place for place, _ in one.each(kept, [(1,), (4,), (5,)], silent)] == [1, 4, 5]
    assert asked == [(4,), (5,)]


def test_an_error_in_a_worker_is_raised_here(study):
    with pytest.raises(ArithmeticError, match="at 1"):
        study(2).each(stumbles, [(0,), (1,), (2,)], silent)
    assert study(2).each(kept, [(7,), (8,)], silent)[0][0] == 7  # and does not break the next ones


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait(study):
    with pytest.raises(TerminatedWorkerError, match="SIGKILL"):
        study(2).each(dies, [(0,), (1,)], silent)
    assert study(2).each(kept, [(7,), (8,)], silent)[0][0] == 7


def test_a_worker_lets_go_of_the_study_before(study):
    blobs = [pickle.dumps(study(1, folder).for_worker()) for folder in ("first", "second")]
    try:
        first = workers._study(blobs[0])
        assert workers._study(blobs[0]) is first
        assert first.cleaning.study is first  # what refers to itself is freed by the garbage collector alone
        seen = weakref.ref(first)
        del first
        gc.disable()
        second = workers._study(blobs[1])
        assert seen() is None
        assert second.store.folder.name == "second"
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()
        workers._known.clear()


def test_the_evidence_is_that_of_one_process(study, monkeypatch):
    alone, together = study(1, "alone"), study(2, "together")
    monkeypatch.setattr("claims.study.collect", computed := Mock(side_effect=collect))
    for condition in ("clean", "fgsm-0.2", "uniform-0.2"):
        expected, calls = alone.table(condition), computed.call_count
        together.table(condition)
        assert computed.call_count == calls > 0  # all by the workers, under the keys of this process
        for name, column in expected.columns.items():
            other = together.table(condition)[name]
            if column.dtype.kind == "f":
                np.testing.assert_allclose(other, column, rtol=1e-3, atol=1e-4)
            else:
                assert (other == column).mean() > 0.99  # a label may turn where two classes are equally likely
    np.testing.assert_array_equal(alone.cleaning.table("clean")["none"], together.cleaning.table("clean")["none"])
    for one in (alone, together):
        one.outside.scores("dimmed-0.3")
    both = [{path.name for path in (one.store.folder / "evidence").iterdir()} for one in (alone, together)]
    assert both[0] == both[1]


def test_default_workers(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert workers.default_workers(torch.device("cpu")) == workers.MOST
    assert workers.default_workers(torch.device("cuda")) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert workers.default_workers(torch.device("cpu")) == 2
