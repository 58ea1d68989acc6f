"""Trials win what they can, judged by new draws; flags are raised where attacks can't be believed, and only there."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vaecore import Sanity
from vaecore.suite.study import trials
from vaecore.suite.study.conditions import CLEAN, FGSM, LBFGS
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.sections import trials as section
from vaecore.suite.study.sections.trials import flags
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.tables import Table
from vaecore.suite.study.trials import Trial, attack_and_judge, sweeps, trial_tasks, weaker

PROTOCOL = Protocol()
SETUP = Setup(Dataset("digits", ""), PROTOCOL, device=torch.device("cpu"))
SWEEPS, WEAKER = sweeps(PROTOCOL), weaker(PROTOCOL)
EVERY = [trial for row in (*SWEEPS.values(), *WEAKER) for trial in row]
IMAGES = 40
ZERO = np.zeros((2, IMAGES), dtype=np.int64)


def study(**changes):
    """A study whose conditions say what a test wants of them."""

    def table(condition):
        sound = {"flags": ZERO, "success": np.ones((2, IMAGES), dtype=bool)}
        return Table.of(sound | changes.get(PROTOCOL.name(condition).replace("-", "_").replace(".", "_"), {}))

    return SimpleNamespace(setup=SETUP, table=table)


def share(part):
    return np.arange(IMAGES) < round(part * IMAGES)


@pytest.fixture
def wins(monkeypatch):
    """All trials win all images, but Square and BPDA; a test may change it."""
    won = {trial: share(1.0 if trial.attack == "pgd" else 0.3) for trial in EVERY}
    monkeypatch.setattr(section, "won", lambda _study, _tasks: won)
    return won


def all_flags(of=None):
    return flags(of or study(), PROTOCOL.conditions)


def test_sound_attacks_raise_no_flag(wins):
    assert all_flags() == []


def test_sweeps_vary_one_thing_upwards_and_weaker_attacks_stand_beside_their_equals():
    assert [trial.epsilon for trial in SWEEPS["epsilon"]] == [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
    assert [trial.epsilon for trial in sweeps(replace(PROTOCOL, budget=0.1))["epsilon"]][-1] == 0.25
    for thing in ("epsilon", "steps", "draws"):
        values = [getattr(trial, thing) for trial in SWEEPS[thing]]
        assert values == sorted(set(values))
        assert len({replace(trial, **{thing: 0}) for trial in SWEEPS[thing]}) == 1
    for weak, strong in WEAKER:
        assert weak.attack in {"square", "bpda"}
        assert (strong.attack, strong.victim, strong.epsilon) == ("pgd", weak.victim, weak.epsilon)
    assert {weak.victim for weak, _ in WEAKER if weak.attack == "square"} == {"classifier", "detector"}


@pytest.mark.parametrize("sweep", SWEEPS)
def test_success_that_falls_with_more_effort_is_flagged(wins, sweep):
    row = SWEEPS[sweep]
    wins[row[1]] = share(0.6)
    falls = [flag for flag in all_flags() if "falls" in flag]
    assert f"success falls from 100% to 60% with more effort: {row[0]}, then {row[1]}" in falls


def test_success_that_does_not_become_complete_is_flagged(wins):
    last = SWEEPS["epsilon"][-1]
    wins[last] = share(0.975)
    assert all_flags() == [f"{last} wins 98% only: with so much room it must win every image"]


@pytest.mark.parametrize("number", range(len(WEAKER)))
def test_an_attack_that_knows_less_and_wins_more_is_flagged(wins, number):
    weak, strong = WEAKER[number]
    for trial in EVERY:  # all equal, so that no sweep falls
        wins[trial] = share(0.5 if trial.attack == "pgd" else 0.1)
    wins[weak] = share(0.9)
    (flag,) = [flag for flag in all_flags() if "knows less" in flag]
    assert flag.startswith(f"{weak} wins 90%, {strong} 50%: ")
    assert "16 images only it wins" in flag


def test_trials_are_asked_for_only_where_the_adaptive_attack_is(monkeypatch):
    monkeypatch.setattr(section, "won", None)
    assert flags(study(), [CLEAN, FGSM(0.5)]) == []
    with pytest.raises(TypeError):
        all_flags()


def test_flags_of_images_and_failures_of_minimal_attacks_are_counted():
    flagged, failed = ZERO.copy(), np.ones((2, IMAGES), dtype=bool)
    flagged[0, :3] = Sanity.ZERO_GRADIENT
    flagged |= int(Sanity.PROBABILITIES)
    failed[1, :2] = False
    of = study(fgsm_0_1={"flags": flagged}, lbfgs={"success": failed}, fgsm_0_2={"success": failed})
    assert [flag.partition(": the ")[0] for flag in flags(of, [CLEAN, FGSM(0.5), FGSM(1), LBFGS])] == [
        "fgsm-0.1: 3 of 80 images",
        "fgsm-0.1: 80 of 80 images",
        "lbfgs: 2 of 80 images",
    ]


def test_fgsm_that_weakens_as_epsilon_grows_is_flagged():
    of = study(fgsm_0_2={"success": np.stack([share(0.5), share(0.5)])})
    (flag,) = flags(of, [FGSM(0.5), FGSM(1), FGSM(1.5)])
    assert flag == "success falls from 100% to 50% with more effort: fgsm-0.1, then fgsm-0.2"


# The trials


class Models:
    """A VAE whose draws are their image, blurred by noise, and a classifier by the mean pixel of the left half."""

    def encode(self, images):
        return images.flatten(1), torch.full((len(images), images[0].numel()), -6.0)

    def decode(self, latents):
        return latents.clamp(0, 1).view(-1, 1, 4, 4)

    def __call__(self, images):
        level = images[..., :2].mean(dim=(1, 2, 3))
        return torch.stack([-level, level - 1, -2 * (level - 0.5).abs() - 2], dim=1) * 10


SHARD = {
    "pixels": torch.full((6, 1, 4, 4), 0.4),
    "labels": torch.zeros(6, dtype=torch.int64),
    "indices": torch.arange(6),
}


def won(trial):
    models, settings = Models(), {"seed": 0, "judging_draws": 10, "device": "cpu"}
    return attack_and_judge(**asdict(trial), **settings, shard=SHARD, vae=models, classifier=models)["won"]


TRIALS = [
    Trial("classifier", 0.3, 5),
    Trial("detector", 0.3, 5),
    *(replace(weak, steps=60, epsilon=0.3) for weak, _ in WEAKER[:3]),
]


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_a_trial_wins_what_it_can_and_no_more(trial):
    """Images 0.1 from the boundary of the two classes fall to epsilon 0.3, and not to 0.05."""
    assert won(trial).all()
    assert not won(replace(trial, epsilon=0.05)).any()


def test_a_detectors_trial_is_judged_by_new_draws(monkeypatch):
    """A win that new draws do not confirm is none."""

    def alarm(*_, draws, **__):
        assert draws == 10
        labels = torch.ones(6, draws, dtype=torch.int64)
        labels[:3, -1] = 0
        return labels

    monkeypatch.setattr(trials, "reconstruct_labels", alarm)
    assert won(Trial("detector", 0.3, 5)).tolist() == [False] * 3 + [True] * 3
    assert won(Trial("classifier", 0.3, 5)).all()


def test_each_trial_is_a_task_on_the_first_run_and_few_images():
    protocol = Protocol(Profile("test", 2, 40, 20, 12))
    tasks = trial_tasks(Setup(Dataset("digits", ""), protocol, device=torch.device("cpu")))
    assert set(tasks) == set(EVERY)
    for trial, task in tasks.items():
        assert {name: task.arguments[name] for name in asdict(trial)} == asdict(trial)
        assert task.arguments["seed"] == 0
        assert len(task.inputs["shard"].tensors["pixels"]) == 6
    assert len({task.key for task in tasks.values()}) == len(tasks)
