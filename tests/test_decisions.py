"""Evidence of B6 to B8: what is fitted, on which images, and what is asked of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from claims import decisions
from claims.decisions import CLEAN, NOISY, TURNED
from claims.study import Dataset, Profile, Study
from vaecore import ClassifierConfig, VAEConfig, fit_temperature, reconstruct
from vaecore._noise import seed_for
from vaecore._store import Store


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A study of two short-trained pairs of reference models on some digits."""
    with pytest.MonkeyPatch.context() as patch:
        configs = VAEConfig(epochs=5, batch_size=50), ClassifierConfig(epochs=4, batch_size=50)
        for module in ("claims.decisions", "claims.study"):
            patch.setattr(f"{module}.reference_configs", lambda _: configs)
        study = Study(
            Dataset("digits", "for tests"),
            Profile("test", runs=2, images=200, lbfgs_images=10, adaptive_images=10),
            Store(tmp_path_factory.mktemp("decisions")),
            device=torch.device("cpu"),
        )
        assert len(study.runs) == 2
        study.decisions.table(CLEAN)  # trains what else is trained
        yield study


def test_the_classifier_has_not_seen_the_images_held_out(small, tmp_path, monkeypatch):
    seen, original = [], decisions.fit_classifier

    def fit(train, *given, **settings):
        seen.append(train)
        return original(train, *given, **settings)

    monkeypatch.setattr(decisions, "fit_classifier", fit)
    study = replace(small, store=Store(tmp_path), wall_seconds={}, looked_at=set())
    study._runs.update({0: small.run(0)})
    study.decisions._judge(0, small.run(0))
    held = small.train.take(study.decisions.held_out())
    assert len(held) == int(0.1 * len(small.train))
    (most,) = seen
    assert len(most) + len(held) == len(small.train)
    rows = {row.numpy().tobytes() for row in most.pixels}
    assert not any(row.numpy().tobytes() in rows for row in held.pixels)


def test_what_is_fitted_does_not_depend_on_test_images(small):
    other = replace(small, wall_seconds={}, looked_at=set())
    other._runs.update(dict(enumerate(small.runs)))
    other.__dict__["test"] = replace(small.test, pixels=small.test.pixels.flip(3))
    judges = [study.decisions._judge(0, small.run(0)) for study in (small, other)]
    assert judges[0].temperature == judges[1].temperature
    assert np.array_equal(judges[0].aided[-1].coef_, judges[1].aided[-1].coef_)
    assert not np.array_equal(small.decisions.table(CLEAN)["plain"], other.decisions.table(CLEAN)["plain"])


def images_by_hand(study, condition):
    pixels = study.test.pixels[study.indices]
    if condition == NOISY:
        return study.decisions._images(condition)[0].pixels
    return pixels


@pytest.mark.parametrize("condition", [CLEAN, NOISY])
def test_the_figures_are_those_of_plain_regressions(small, condition):
    table, run = small.decisions.table(condition), small.run(1)
    judge = small.decisions._judge(1, run)
    held = small.decisions.held_out()
    sides = {}
    for role, pixels, labels, index in (
        ("held-out", small.train.pixels[held], small.train.labels[held], held),
        ("test", images_by_hand(small, condition), small.test.labels[small.indices], small.indices),
    ):
        logits = judge.classifier(pixels)
        confidence = (logits.double() / judge.temperature).softmax(dim=1).amax(dim=1).clamp(1e-12, 1 - 1e-12)
        seed = seed_for(f"decisions/{role}", run.seed)
        drawn = reconstruct(run.vae, pixels, draws=10, seed=seed, indices=index)
        error = (drawn - pixels.unsqueeze(1)).square().mean(dim=(1, 2, 3, 4)).double()
        features = torch.stack([confidence.logit(), error.log()], dim=1).numpy()
        sides[role] = features, (logits.argmax(dim=1) == labels).numpy(), logits
    assert judge.temperature == pytest.approx(fit_temperature(sides["held-out"][2], small.train.labels[held]))
    centre, scale = sides["held-out"][0].mean(axis=0), sides["held-out"][0].std(axis=0)
    for name, columns in (("plain", [0]), ("aided", [0, 1])):
        known, asked = (((sides[role][0] - centre) / scale)[:, columns] for role in ("held-out", "test"))
        model = LogisticRegression(C=np.inf).fit(known, sides["held-out"][1])
        expected = log_loss(sides["test"][1], model.predict_proba(asked)[:, 1], labels=[False, True])
        assert table[name][1].mean() == pytest.approx(expected, rel=1e-3)
    np.testing.assert_array_equal(table["right"][1], sides["test"][1])


def test_shifted_images_are_shifted(small):
    clean, turned, noisy = (small.decisions._images(condition)[0] for condition in (CLEAN, TURNED, NOISY))
    assert torch.equal(clean.labels, turned.labels)
    assert torch.equal(clean.labels, noisy.labels)
    change = (noisy.pixels - clean.pixels)[(noisy.pixels > 0) & (noisy.pixels < 1) & (clean.pixels > 0.4)]
    assert 0.15 < change.std() < 0.3  # 0.3, cut off at 0 and 1
    assert not torch.equal(clean.pixels, turned.pixels)
    accuracy = [small.decisions.table(condition)["right"].mean() for condition in (CLEAN, TURNED, NOISY)]
    assert accuracy[0] > max(accuracy[1:])


def test_without_a_wrong_answer_there_is_nothing_to_learn():
    logits = np.eye(3)[np.arange(30) % 3] * 5
    labels = torch.arange(30) % 3
    judge = decisions._Judge.fit(None, "", logits, np.ones(30), labels)
    found = judge.nll(logits, np.ones(30), labels)
    assert found["right"].all()
    assert found["plain"].isnan().all()
    assert found["aided"].isnan().all()


def test_what_is_computed_is_kept(small, monkeypatch):
    expected = small.decisions.table(TURNED)
    monkeypatch.setattr(decisions, "fit_classifier", None)
    monkeypatch.setattr(decisions, "reconstruct", None)
    again = replace(small, wall_seconds={}, looked_at=set())
    again._runs.update(dict(enumerate(small.runs)))
    np.testing.assert_array_equal(again.decisions.table(TURNED)["aided"], expected["aided"])
