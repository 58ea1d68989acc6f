"""Are figures tasks: kept until what they show changes, and drawn before anything is written?"""

import pytest

from vaecore import Store
from vaecore.suite.plugin.figure_tasks import drawn
from vaecore.suite.report.figures import files
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.study.plan import Plan


@pytest.fixture
def plan(tmp_path):
    return Plan(Store(tmp_path))


@pytest.fixture
def names(monkeypatch):
    """The name of each figure that is drawn, in a way that costs nothing."""
    names = []

    def draw(results, name):
        assert results["draws"] == 10
        names.append(name)
        return {suffix: f"{len(names)} {suffix}".encode() for suffix in ("png", "svg")}

    monkeypatch.setattr(files, "draw", draw)
    return names


def test_figures_are_drawn_again_only_when_what_they_show_changes(results, plan, names):
    files = drawn(results, plan)
    assert set(files) == {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")}
    assert len(set(files.values())) == len(files)
    assert (
        drawn(results | {"made": "later", "wall_seconds": {}, "task_seconds": {}}, plan) == files
    )  # which no figure shows
    assert names == [*FIGURES]
    drawn(results | {"seeds": [5]}, plan)
    assert names == [*FIGURES] * 2
    drawn(results | {"decisions": None}, plan)
    assert set(FIGURES) - set(names[2 * len(FIGURES) :]) == {"reliability", "risk-coverage"}


def test_an_interruption_is_not_kept_as_a_failure(results, plan, names, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "draw", interrupt)
        with pytest.raises(KeyboardInterrupt):
            drawn(results, plan)
    drawn(results, plan)
    assert names == [*FIGURES]
