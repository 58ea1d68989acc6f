"""Columns: whatever is computed from them keeps the conditions looked at and the share of images kept."""

import copy
import operator
from inspect import getmembers, isfunction, signature

import numpy as np
import pytest

from vaecore.suite.statistics import estimates
from vaecore.suite.statistics.columns import NOWHERE, Column, Origin, origin_of

CLEAN, ATTACKED = Origin(frozenset({"clean"}), 0.99), Origin(frozenset({"lbfgs", "fgsm-0.2"}), 0.97)
BOTH = Origin(frozenset({"clean", "lbfgs", "fgsm-0.2"}), 0.97)


@pytest.fixture
def column():
    return Column(np.arange(1.0, 13.0).reshape(3, 4), CLEAN)


@pytest.fixture
def other():
    return Column(np.arange(12.0, 0.0, -1.0).reshape(3, 4), ATTACKED)


def test_joined_origins_have_all_conditions_and_the_smallest_share():
    assert CLEAN | ATTACKED == ATTACKED | CLEAN == BOTH
    assert CLEAN | NOWHERE == CLEAN
    assert (NOWHERE.conditions, NOWHERE.kept) == (frozenset(), 1.0)


OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "le", "eq", "ne", "gt", "ge")


@pytest.mark.parametrize("name", OPERATORS)
def test_arithmetic_and_comparison_join(column, other, name):
    calculate = getattr(operator, name)
    plain = np.asarray(column), np.asarray(other)
    for result, expected, origin in (
        (calculate(column, other), calculate(*plain), BOTH),
        (calculate(column, plain[1]), calculate(*plain), CLEAN),
        (calculate(plain[0], other), calculate(*plain), ATTACKED),
        (calculate(column, 2), calculate(plain[0], 2), CLEAN),
        (calculate(2.0, other), calculate(2.0, plain[1]), ATTACKED),
    ):
        assert isinstance(result, Column)
        assert result.origin == origin
        np.testing.assert_array_equal(np.asarray(result), expected)


KEEPING = {
    "a row": lambda x: x[0],
    "a slice": lambda x: x[:, 1:3],
    "a mask": lambda x: x[x > 5],
    "places": lambda x: x[:, [2, 0]],
    "a new axis": lambda x: x[None],
    "a copy": lambda x: x.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "another type": lambda x: x.astype(int),
    "another shape": lambda x: x.reshape(4, 3),
    "flat": lambda x: x.ravel(),
    "transposed": lambda x: x.T,
    "a mean": lambda x: x.mean(axis=1),
    "a sum": lambda x: x.sum(0),
    "np.mean": lambda x: np.mean(x, axis=0),
    "np.median": lambda x: np.median(x, axis=0),
    "largest": lambda x: np.max(x, axis=1),
    "any": lambda x: (x > 3).any(axis=0),
    "a running sum": lambda x: np.cumsum(x, axis=1),
    "negative": lambda x: -x,
    "not": lambda x: ~(x > 3),
    "logarithm": np.log,
    "sorted": lambda x: np.sort(x, axis=1),
    "places of the sorted": lambda x: x.argsort(axis=1),
    "clipped": lambda x: np.clip(x, 2, 5),
    "a product": lambda x: x @ np.ones((4, 2)),
    "one of several results": lambda x: np.unique(x, return_inverse=True)[1],
    "one of a ufunc's two results": lambda x: np.divmod(x, 3)[1],
    "singular values, by name": lambda x: np.linalg.svd(x).S,
}


@pytest.mark.parametrize("name", KEEPING)
def test_what_is_made_of_a_column_keeps_its_origin(column, name):
    result = KEEPING[name](column)
    assert isinstance(result, Column)
    assert result.origin == CLEAN
    np.testing.assert_array_equal(np.asarray(result), KEEPING[name](np.asarray(column)))


JOINING = {
    "concatenated": lambda x, y: np.concatenate([x, y], axis=1),
    "stacked": lambda x, y: np.stack([x, y]),
    "chosen": lambda x, y: np.where(np.asarray(x) > 3, x, y),
    "by a condition": lambda x, y: np.where(x > 3, 1.0, y),
    "larger": np.maximum,
    "both": lambda x, y: (x > 3) & (y > 3),
    "weighted": lambda x, y: np.average(x, axis=1, weights=y),
    "einsum": lambda x, y: np.einsum("ij,ij->i", x, y),
    "among": np.isin,
}


@pytest.mark.parametrize("name", JOINING)
def test_what_is_made_of_two_columns_joins_their_origins(column, other, name):
    result = JOINING[name](column, other)
    assert result.origin == BOTH
    np.testing.assert_array_equal(np.asarray(result), JOINING[name](np.asarray(column), np.asarray(other)))


def test_changed_in_place_a_column_joins(column, other):
    column += other
    assert column.origin == BOTH
    np.testing.assert_array_equal(np.asarray(column), 13.0)


def test_columns_leave_their_values_and_each_other_alone(column, other):
    before = np.asarray(column).copy()
    _ = column + other, column[0] * 2
    assert (column.origin, other.origin) == (CLEAN, ATTACKED)
    np.testing.assert_array_equal(np.asarray(column), before)
    assert origin_of(np.asarray(column)) == NOWHERE


def test_origins_are_found_in_what_holds_columns(column, other):
    assert origin_of([column, [other, 3, "text", None]]) == BOTH
    assert origin_of({"a": column, "b": (1, {"c": other})}) == BOTH
    assert origin_of((3, "text", np.ones(3), None, {})) == NOWHERE


# Estimates

MEMBER = np.arange(40).reshape(2, 20) % 3 == 0
TABLES = np.random.default_rng(0).random((3, 2, 20))
ESTIMATORS = {  # with the tables or estimates that each takes
    "mean": (estimates.mean, TABLES[:1]),
    "smooth": (lambda *tables: estimates.smooth(tables, sum), TABLES),
    "ratio": (estimates.ratio, TABLES[:2]),
    "group_mean_ratio": (estimates.group_mean_ratio, (TABLES[0], MEMBER, ~MEMBER)),
    "group_mean_step": (estimates.group_mean_step, (TABLES[0], MEMBER, ~MEMBER)),
    "auroc": (lambda low, high: estimates.auroc(low, outside=high, paired=False), TABLES[:2]),
    "auroc_of_groups": (estimates.auroc_of_groups, (TABLES[0], MEMBER)),
    "aurc": (estimates.aurc, (TABLES[0], MEMBER)),
    "spearman": (estimates.spearman, TABLES[:2]),
    "spearman_within": (estimates.spearman_within, (*TABLES[:2], MEMBER.astype(int))),
    "difference": (lambda *tables: estimates.difference(*map(estimates.mean, tables)), TABLES[:2]),
    "absolute": (lambda table: estimates.absolute(estimates.mean(table)), TABLES[:1]),
}


def test_every_estimator_is_among_them():
    public = {
        name
        for name, function in getmembers(estimates, isfunction)
        if not name.startswith("_") and signature(function).return_annotation is estimates.Estimate
    }
    assert public == set(ESTIMATORS)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimate_has_the_origin_of_all_that_it_is_made_of(name):
    estimator, tables = ESTIMATORS[name]
    columns = [Column(table, Origin(frozenset({f"c{k}"}), 0.9 - k / 10)) for k, table in enumerate(tables)]
    estimate, plain = estimator(*columns), estimator(*tables)
    assert estimate.origin == Origin(frozenset(f"c{k}" for k in range(len(tables))), 1 - len(tables) / 10)
    assert plain.origin == NOWHERE
    assert type(estimate.influence) is type(estimate.per_run) is np.ndarray
    assert estimate.value == plain.value
    np.testing.assert_array_equal(estimate.influence, plain.influence)


def test_an_undefined_estimate_has_it_too():
    estimate = estimates.mean(Column(np.full((2, 3), np.nan), ATTACKED))
    assert estimate.reason
    assert estimate.origin == ATTACKED
