"""How often intervals cover, in a short form of `python -m vaecore.suite.statistics.coverage`."""

import pytest

from vaecore.suite.statistics import coverage

REPLICATIONS = 150
# At most 18 and 6 misses in 150, which a true coverage of 0.95 and 0.995 exceeds less than once in a thousand.
LEAST = {0.95: 0.88, 0.995: 0.96}
# A run effect that dominates makes the shares of runs skewed, most so near 1, and five runs too few for the t interval;
# the table says by how much. The slack here is that shortfall.
SKEWED = {"high_proportion", "auroc_near_one", "auroc_difference", "aurc_difference", "skewed_mean"}
NORMAL = [one for one in coverage.SCENARIOS if one is not coverage.bad_trainings]


@pytest.mark.parametrize("run_effect", list(coverage.RUN_EFFECTS))
@pytest.mark.parametrize("scenario", NORMAL, ids=lambda scenario: scenario.__name__)
def test_intervals_of_five_runs_cover(scenario, run_effect):
    rows = coverage.simulate(scenario, runs=5, run_effect=run_effect, replications=REPLICATIONS, seed=1)
    slack = {"dominant": 0.1 if scenario.__name__ in SKEWED else 0.02}.get(run_effect, 0.0)
    assert [row.level for row in rows if row.covered < LEAST[row.level] - slack] == []
    assert all(row.below + row.covered + row.above == pytest.approx(1) for row in rows)


def test_bad_trainings_are_not_covered_as_the_documents_say():
    """Of five runs none is bad 0.85^5 = 0.44 times; more runs cover more often."""
    five, ten = (
        coverage.simulate(
            coverage.bad_trainings, runs=runs, run_effect="none", replications=REPLICATIONS, seed=1, levels=[0.95]
        )[0]
        for runs in (5, 10)
    )
    assert 0.42 < five.covered < 0.68 < ten.covered < 0.92
    assert five.above > 0.3


def test_intervals_are_not_so_wide_that_they_say_nothing():
    """Without a run effect: 1.96 * sqrt(0.8 * 0.2 * (1/2 to 1) / 500), truncation added, and at most twice that."""
    (row,) = coverage.simulate(
        coverage.proportion, runs=5, run_effect="none", replications=REPLICATIONS, seed=2, levels=[0.95]
    )
    assert 0.018 < row.half_width < 0.035


@pytest.mark.parametrize("run_effect", list(coverage.RUN_EFFECTS))
@pytest.mark.parametrize("scenario", [coverage.proportion, coverage.smallest_step], ids=lambda one: one.__name__)
def test_two_studies_of_one_truth_seldom_seem_to_differ(scenario, run_effect):
    row = coverage.false_alarms(scenario, runs=5, run_effect=run_effect, replications=REPLICATIONS, seed=1)
    assert max(row.own[0], row.shared[0]) <= 18 / REPLICATIONS  # as above
    assert max(row.own[1], row.shared[1]) <= 6 / REPLICATIONS
    if run_effect == "none":  # what the images share is all there is, and is not credited
        assert row.shared[0] < 0.05


def test_the_command_writes_a_row_for_each_simulation(capsys):
    coverage.main(["--replications", "2", "--seed", "1"])
    intervals, alarms = capsys.readouterr().out.split("# False alarms of a comparison")
    assert "`python -m vaecore.suite.statistics.coverage --replications 2 --seed 1`" in intervals
    for text in (intervals, alarms):
        rows = [line for line in text.splitlines() if line.startswith("|")][2:]
        numbers = 3 if text == intervals else 1  # of runs
        assert len(rows) == len({tuple(row.split("|")[1:4]) for row in rows}) == len(coverage.SCENARIOS) * 3 * numbers
        assert len({row.count("|") for row in rows}) == 1
