"""How often the intervals of `statistics/intervals.py` cover the truth, simulated for every kind of estimand in use.

`python -m vaecore.suite.statistics.coverage` prints the tables of `reports/coverage.md`; a test runs a short form. The
second table is of `intervals.change`: how often two studies of one truth seem to differ. Each scenario draws normal
scores z = a * run + sqrt(1/2) * image + sqrt(1/2) * residual, with a new run and image effect for each replication, and
its estimand has a closed form, or an integral's.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from vaecore.suite.statistics import estimates, intervals
from vaecore.suite.statistics.estimates import Array, Estimate
from vaecore.suite.statistics.intervals import Pick

IMAGES = 500
LEVELS = (0.95, 0.995)
# In units of the score's standard deviation without it. For a proportion of 0.8 from 500 images, 0.07 gives runs a
# standard deviation (0.02) close to the images' own (0.015), and 0.35 seven times as much.
RUN_EFFECTS: Mapping[str, float] = MappingProxyType({"none": 0.0, "moderate": 0.07, "dominant": 0.35})


@dataclass(frozen=True)
class Coverage:
    """Shares of replications whose interval lay below, covered and above the truth, and its mean half-width."""

    scenario: str
    runs: int
    run_effect: str
    level: float
    below: float
    covered: float
    above: float
    half_width: float


@dataclass(frozen=True)
class Alarms:
    """Share of pairs of studies of one truth whose interval of the change leaves out 0, at each level of LEVELS.

    shared: of pairs on the same images; else each has its own.
    """

    scenario: str
    runs: int
    run_effect: str
    own: tuple[float, ...]
    shared: tuple[float, ...]


# A scenario maps (generator, runs, run effect) to the estimates of one replication and the truth. Several estimates
# stand for their smallest, or for their greatest in GREATEST.
Scenario: TypeAlias = Callable[[np.random.Generator, int, float], tuple[list[Estimate], float]]


def proportion(
    generator: np.random.Generator, runs: int, effect: float, share: float = 0.8
) -> tuple[list[Estimate], float]:
    """A share of images; a threshold on the score that makes it `share` in the mean over runs."""
    score = _score(generator, runs) + _run(generator, runs, effect)
    return [estimates.mean(score < _threshold(share, effect))], share


def high_proportion(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """A share of 0.98: few images decide."""
    return proportion(generator, runs, effect, 0.98)


def few_high_proportion(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """A share of 0.995 of 150 images, of which 0.75 are wrong on average: A14."""
    score = _score(generator, runs, images=150) + _run(generator, runs, effect)
    return [estimates.mean(score < _threshold(0.995, effect))], 0.995


def bad_trainings(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """A share of 0.98 of images, but of 0.8 in 15% of the trainings."""
    bad = generator.random((runs, 1)) < 0.15
    score = _score(generator, runs) + _run(generator, runs, effect)
    return [estimates.mean(score < np.where(bad, _threshold(0.8, effect), _threshold(0.98, effect)))], 0.953


def skewed_mean(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """A mean of lognormal values of no known range, as of an NLL: 1% of the images hold a tenth of it. B7, B8, E5."""
    values = np.exp(1.2 * (_score(generator, runs) + _run(generator, runs, effect)))
    return [estimates.mean(values, limits=estimates.UNLIMITED)], float(np.exp(1.2**2 * (1 + effect**2) / 2))


def paired_difference(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """Shares of the same images under two conditions: a run moves the second only, as an attack's strength might."""
    shared = _score(generator, runs)
    clean = estimates.mean(shared + 0.5 * generator.standard_normal(shared.shape) < np.sqrt(1.25) * norm.ppf(0.85))
    moved = shared + 0.5 * generator.standard_normal(shared.shape) + _run(generator, runs, effect)
    attacked = estimates.mean(moved < np.sqrt(1.25 + effect**2) * norm.ppf(0.5))
    return [estimates.difference(clean, attacked)], 0.35


def ratio_of_drops(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """(clean - noise) / (clean - attack), three shares of the same images and run effect: claim A7."""
    score = _score(generator, runs) + _run(generator, runs, effect)
    clean, noise, attack = (score < _threshold(share, effect) for share in (0.85, 0.4, 0.2))
    drops = np.subtract(clean, noise, dtype=np.float64), np.subtract(clean, attack, dtype=np.float64)
    return [estimates.ratio(*drops)], 0.45 / 0.65


def group_mean_ratio(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """Mean error of a tenth of the images, chosen anew by each run but mostly the same, over that of the rest: B1."""
    uncertain = _score(generator, runs) > norm.ppf(0.9)
    gain = 0.35 + _run(generator, runs, effect)
    error = 1 + 0.5 * _score(generator, runs) + gain * uncertain
    return [estimates.group_mean_ratio(error, uncertain, ~uncertain)], 1.35


def auroc_paired(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """The same images under two conditions; a run moves the distance between them: A8."""
    image = generator.standard_normal(IMAGES)
    inside = _score(generator, runs, image)
    outside = _score(generator, runs, image) + 1.2 + _run(generator, runs, 2 * effect)
    return [estimates.auroc(inside, outside, paired=True)], _auroc_truth(1.2, 2 * effect)


def auroc_unpaired(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """Two sets of images; a run moves the distance between them: C1 to C9."""
    inside = _score(generator, runs)
    outside = _score(generator, runs) + 1.2 + _run(generator, runs, 2 * effect)
    return [estimates.auroc(inside, outside, paired=False)], _auroc_truth(1.2, 2 * effect)


def auroc_near_one(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """As the unpaired one, at 0.996 without a run effect."""
    inside = _score(generator, runs)
    outside = _score(generator, runs) + 3.75 + _run(generator, runs, 2 * effect)
    return [estimates.auroc(inside, outside, paired=False)], _auroc_truth(3.75, 2 * effect)


def auroc_difference(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """Of two scores under the same two conditions, AUROC of 0.985 and 0.93; a run moves the first: A10, A11."""
    distances = np.sqrt(2) * norm.ppf([0.985, 0.93])
    areas = []
    for distance, moved in zip(distances, (_run(generator, runs, 2 * effect), 0.0), strict=True):
        image = generator.standard_normal(IMAGES)
        inside, outside = _score(generator, runs, image), _score(generator, runs, image) + distance + moved
        areas.append(estimates.auroc(inside, outside, paired=True))
    return [estimates.difference(*areas)], _auroc_truth(distances[0], 2 * effect) - 0.93


def auroc_of_groups(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """A twentieth of the images is positive in each run, mostly the same ones: B5."""
    positive = _score(generator, runs) > norm.ppf(0.95)
    score = _score(generator, runs) + (1.2 + _run(generator, runs, 2 * effect)) * positive
    return [estimates.auroc_of_groups(score, positive)], _auroc_truth(1.2, 2 * effect)


def spearman_within(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """Ten classes with means of their own, one correlation within each; a run moves the correlation: B2."""
    groups = np.broadcast_to(np.arange(IMAGES) % 10, (runs, IMAGES))
    scale = 0.6 * effect
    correlation = np.tanh(-0.3 + _run(generator, runs, scale))
    error = _score(generator, runs)
    confidence = correlation * error + np.sqrt(1 - correlation**2) * _score(generator, runs)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    truth = float((6 / np.pi * np.arcsin(np.tanh(-0.3 + scale * nodes) / 2)) @ weights / weights.sum())
    return [estimates.spearman_within(error + groups, confidence - 2 * groups, groups)], truth


def smallest_step(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """The smallest of three differences between shares that fall by 0.25, 0.15 and 0.1: A4."""
    score = _score(generator, runs) + _run(generator, runs, effect)
    shares = [estimates.mean(score < _threshold(share, effect)) for share in (0.7, 0.45, 0.3, 0.2)]
    return [estimates.difference(*pair) for pair in pairwise(shares)], 0.1


def greater_of_two(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """The greater of two AUROCs that are equal, picked after looking: A16c."""
    return [auroc_paired(generator, runs, effect)[0][0] for _ in range(2)], _auroc_truth(1.2, 2 * effect)


def absolute_correlation(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """The absolute value of a correlation of 0.05, whose interval reaches 0: B4."""
    first, second = _score(generator, runs), _score(generator, runs)
    correlation = 0.05 + _run(generator, runs, effect)
    both = correlation * first + np.sqrt(1 - np.minimum(correlation**2, 1)) * second
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    each = np.clip(0.05 + effect * nodes, -1, 1)
    truth = abs(float((6 / np.pi * np.arcsin(each / 2)) @ weights / weights.sum()))
    return [estimates.absolute(estimates.spearman(first, both))], truth


def absolute_skewed_mean(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """The absolute value of a mean difference of skewed values, small beside their spread: B6."""
    values = np.exp(0.8 * _score(generator, runs)) - np.exp(0.32) + 0.05 + _run(generator, runs, effect)
    return [estimates.absolute(estimates.mean(values, limits=estimates.UNLIMITED))], 0.05


def aurc(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """Area under the risk-coverage curve of a doubt that correlates by 0.7 with being wrong, a tenth of answers: E7."""
    doubt = _score(generator, runs)
    return [estimates.aurc(doubt, _wrong(generator, doubt, 0.7, effect))], _aurc_truth(0.7, effect)


def aurc_difference(generator: np.random.Generator, runs: int, effect: float) -> tuple[list[Estimate], float]:
    """Of two doubts about the same answers, one of which knows nothing: E7."""
    doubt = _score(generator, runs)
    wrong = _wrong(generator, doubt, 0.7, effect)
    areas = [estimates.aurc(doubt, wrong), estimates.aurc(_score(generator, runs), wrong)]
    return [estimates.difference(*areas)], _aurc_truth(0.7, effect) - 0.1


SCENARIOS: tuple[Scenario, ...] = (
    proportion,
    high_proportion,
    few_high_proportion,
    bad_trainings,
    skewed_mean,
    paired_difference,
    ratio_of_drops,
    group_mean_ratio,
    auroc_paired,
    auroc_unpaired,
    auroc_near_one,
    auroc_difference,
    auroc_of_groups,
    spearman_within,
    smallest_step,
    greater_of_two,
    absolute_correlation,
    absolute_skewed_mean,
    aurc,
    aurc_difference,
)
GREATEST = (greater_of_two,)


def simulate(
    scenario: Scenario, *, runs: int, run_effect: str, replications: int, seed: int, levels: Sequence[float] = LEVELS
) -> list[Coverage]:
    """Coverage of one scenario at each level, from this many replications."""
    generator = np.random.default_rng([seed, runs, *scenario.__name__.encode(), *run_effect.encode()])
    counts = np.zeros((len(levels), 3))
    half_width = np.zeros(len(levels))
    for _ in range(replications):
        estimates, truth = scenario(generator, runs, RUN_EFFECTS[run_effect])
        for k, level in enumerate(levels):
            interval = getattr(intervals, _pick(scenario))(estimates, level)
            counts[k] += interval.high < truth, interval.low <= truth <= interval.high, interval.low > truth
            half_width[k] += (interval.high - interval.low) / 2
    return [
        Coverage(scenario.__name__, runs, run_effect, level, below, covered, above, float(width))
        for level, (below, covered, above), width in zip(
            levels, (counts / replications).tolist(), half_width / replications, strict=True
        )
    ]


def false_alarms(scenario: Scenario, *, runs: int, run_effect: str, replications: int, seed: int) -> Alarms:
    """How often two studies with so many runs each seem to differ, with images of their own and with the same."""
    generator = np.random.default_rng([seed, runs, *scenario.__name__.encode(), *run_effect.encode(), 2])
    effect = RUN_EFFECTS[run_effect]
    counts = np.zeros((2, len(LEVELS)))
    for _ in range(replications):
        before, after, both = (scenario(generator, number, effect)[0] for number in (runs, runs, 2 * runs))
        halves = [[_of_runs(estimate, rows) for estimate in both] for rows in (slice(runs), slice(runs, None))]
        for kind, pair in enumerate(((before, after), halves)):
            first, second = (intervals.smallest(estimates, 0.95).spreads for estimates in pair)  # in the order given
            for k, level in enumerate(LEVELS):
                _, low, high = intervals.change(first, second, level, pick=_pick(scenario))
                counts[kind, k] += not low <= 0 <= high
    own, shared = (counts / replications).tolist()
    return Alarms(scenario.__name__, runs, run_effect, tuple(own), tuple(shared))


def _of_runs(estimate: Estimate, rows: slice) -> Estimate:
    """The same estimate from some of its runs (of a function of means over runs, to first order)."""
    influence = estimate.influence[rows]
    return replace(estimate, value=float(influence.mean()), influence=influence, per_run=estimate.per_run[rows])


def alarms_table(rows: Sequence[Alarms], *, replications: int) -> str:
    """Markdown: one row for a scenario, number of runs and run effect; for each level the shares of false alarms."""
    lines = [
        "# False alarms of a comparison",
        "",
        "Pairs of studies of one truth, by the same command: the share whose interval of the change leaves out 0,",
        f"where each has its own images, and where both have the same. {replications} pairs a row.",
        f"Standard error of a share of 0.05: {np.sqrt(0.05 * 0.95 / replications):.4f}.",
        "",
        "| estimand | runs | run effect | " + " | ".join(f"{level}, own | same images" for level in LEVELS) + " |",
        "|---|---|---|" + "---|---|" * len(LEVELS),
    ]
    for row in rows:
        cells = [f"{own:.3f} | {shared:.3f}" for own, shared in zip(row.own, row.shared, strict=True)]
        lines.append(f"| {row.scenario.replace('_', ' ')} | {row.runs} | {row.run_effect} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Coverage], *, replications: int, command: str) -> str:
    """Markdown: one row for a scenario, number of runs and run effect; for each level coverage and half-width."""
    levels = sorted({row.level for row in rows})
    lines = [
        "# Coverage of the intervals",
        "",
        f"Generated by `{command}`:",
        f"{IMAGES} images (150 in `few high proportion`), {replications} replications a row. For each level the share",
        "of intervals that cover the truth (in brackets: that lie wholly below it, wholly above it), and the mean",
        "half-width.",
        (
            f"Standard error of a share of 0.95: {np.sqrt(0.95 * 0.05 / replications):.4f};"
            f" of 0.995: {np.sqrt(0.995 * 0.005 / replications):.4f}."
        ),
        "",
        "| estimand | runs | run effect | " + " | ".join(f"{level} | half-width" for level in levels) + " |",
        "|---|---|---|" + "---|---|" * len(levels),
    ]
    for first in (row for row in rows if row.level == levels[0]):
        same = [
            next(
                row
                for row in rows
                if (row.scenario, row.runs, row.run_effect, row.level)
                == (first.scenario, first.runs, first.run_effect, level)
            )
            for level in levels
        ]
        cells = [f"{row.covered:.3f} ({row.below:.3f}, {row.above:.3f}) | {row.half_width:.3f}" for row in same]
        lines.append(
            f"| {first.scenario.replace('_', ' ')} | {first.runs} | {first.run_effect} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables to standard output."""
    parser = argparse.ArgumentParser(prog="python -m vaecore.suite.statistics.coverage", description=main.__doc__)
    parser.add_argument("--replications", type=int, default=800, metavar="N", help="for each row (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default %(default)s")
    chosen = parser.parse_args(arguments)
    rows = [
        row
        for scenario in SCENARIOS
        for runs in (3, 5, 10)
        for run_effect in RUN_EFFECTS
        for row in simulate(
            scenario, runs=runs, run_effect=run_effect, replications=chosen.replications, seed=chosen.seed
        )
    ]
    command = f"python -m vaecore.suite.statistics.coverage --replications {chosen.replications} --seed {chosen.seed}"
    sys.stdout.write(table(rows, replications=chosen.replications, command=command))
    pairs = -(-chosen.replications // 2)  # a pair of studies, twice, takes as long as four replications
    alarms = [
        false_alarms(scenario, runs=5, run_effect=effect, replications=pairs, seed=chosen.seed)
        for scenario in SCENARIOS
        for effect in RUN_EFFECTS
    ]
    sys.stdout.write("\n" + alarms_table(alarms, replications=pairs))


def _pick(scenario: Scenario) -> Pick:
    return "greatest" if scenario in GREATEST else "smallest"


def _score(generator: np.random.Generator, runs: int, image: Array | None = None, images: int = IMAGES) -> Array:
    """Standard normal scores (runs, images), half of whose variance is the image's."""
    shared = generator.standard_normal(images) if image is None else image
    score: Array = np.sqrt(0.5) * (shared + generator.standard_normal((runs, images)))
    return score


def _run(generator: np.random.Generator, runs: int, effect: float) -> Array:
    """Run effects (runs, 1) of this standard deviation."""
    return effect * generator.standard_normal((runs, 1))


def _threshold(share: float, effect: float) -> float:
    """The threshold below which this share of scores lies, over runs and images."""
    return float(np.sqrt(1 + effect**2) * norm.ppf(share))


def _wrong(generator: np.random.Generator, doubt: Array, correlation: float, effect: float) -> NDArray[np.bool_]:
    """Which answers are wrong, a tenth over all runs: where a score correlated with the doubt is high; runs move it."""
    runs = len(doubt)
    score = correlation * doubt + np.sqrt(1 - correlation**2) * _score(generator, runs)
    wrong: NDArray[np.bool_] = score + _run(generator, runs, effect) > _threshold(0.9, effect)
    return wrong


def _aurc_truth(correlation: float, effect: float) -> float:
    """The mean over u in (0, 1) of P(wrong | u) * -log(u), where u is the rank of the doubt."""
    place = (np.arange(4000) + 0.5) / 4000
    spread = np.sqrt(1 - correlation**2 + effect**2)
    risk = norm.cdf((correlation * norm.ppf(place) - _threshold(0.9, effect)) / spread)
    return float((risk * -np.log(place)).mean())


def _auroc_truth(distance: float, effect: float) -> float:
    """Mean over runs of the AUROC of unit normal scores whose distance varies by `effect` between runs."""
    return float(norm.cdf(distance / np.sqrt(2 + effect**2)))


if __name__ == "__main__":
    main()
