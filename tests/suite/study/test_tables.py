"""Tables read by hand: what is said of draws, images taken, draws taken, origins; columns come when first looked at."""

import numpy as np
import pytest
import torch

from vaecore.suite.statistics.columns import Origin
from vaecore.suite.study.tables import Table, join, stack

ORIGIN = Origin(frozenset({"fgsm-0.2"}))
RUNS = [
    {
        "label": torch.tensor([1, 2, 3]),
        "predicted": torch.tensor([1, 2, 0]),
        "confidence": torch.tensor([0.75, 1.0, 0.5], dtype=torch.float64),
        "draw_label": torch.tensor([[1, 1, 1, 1], [2, 3, 2, 3], [0, 1, 2, 3]]),
        "draw_own_probability": torch.tensor([[1.0, 1.0, 0.5, 0.5], [0.0] * 4, [1.0] * 4]),
        "draw_mse": torch.tensor([[0.25, 0.75, 0.0, 0.0], [1.0] * 4, [0.0] * 4]),
    },
    {
        "label": torch.tensor([1, 2, 3]),
        "predicted": torch.tensor([2, 2, 3]),
        "confidence": torch.tensor([1.0, 0.25, 0.125], dtype=torch.float64),
        "draw_label": torch.tensor([[5, 5, 5, 6], [2, 2, 2, 2], [9, 8, 9, 7]]),
        "draw_own_probability": torch.tensor([[0.25] * 4, [0.0, 0.0, 0.0, 1.0], [0.5] * 4]),
        "draw_mse": torch.tensor([[0.5] * 4, [0.0, 0.0, 0.0, 1.0], [0.125] * 4]),
    },
]
SAID = {
    "distinct": [[1, 2, 4], [2, 1, 3]],
    "consistent": [[True, False, False], [False, True, False]],
    "disagreement": [[0.25, 1.0, 0.0], [0.75, 0.75, 0.5]],
    "mse": [[0.25, 1.0, 0.0], [0.5, 0.25, 0.125]],
    "doubt": [[0.25, 0.0, 0.5], [0.0, 0.75, 0.875]],
    "wrong": [[False, False, True], [True, False, False]],
}


@pytest.mark.parametrize("rows", [slice(None), slice(2), np.array([2, 0]), np.array([1])], ids=str)
def test_what_is_said_of_images(rows):
    table = Table.of(stack(RUNS), ORIGIN).take(rows)
    for name, values in SAID.items():
        column = getattr(table, name)
        assert column.tolist() == np.array(values)[:, rows].tolist(), name
        assert column.origin == ORIGIN
    assert table["label"].tolist() == np.array([[1, 2, 3]] * 2)[:, rows].tolist()
    assert table["label"].origin == ORIGIN
    assert "label" in table
    assert "absent" not in table
    with pytest.raises(KeyError):
        table["absent"]
    assert table.disagreement.dtype == table.mse.dtype == table.doubt.dtype == np.float64


def test_a_table_of_some_draws_speaks_of_these():
    table = Table.of(stack(RUNS), ORIGIN)
    short = table.first_draws(3)
    assert short.distinct.tolist() == [[1, 2, 3], [1, 1, 2]]
    assert short.mse.tolist() == [[1 / 3, 1.0, 0.0], [0.5, 0.0, 0.125]]
    assert short["label"].tolist() == table["label"].tolist()
    assert short.distinct.origin == ORIGIN
    for draws in (0, 5):
        with pytest.raises(ValueError, match=f"draws must be from 1 to 4, those that were collected; got {draws}"):
            _ = table.first_draws(draws).columns


def test_shards_join_run_by_run():
    parts = [{name: column[rows] for name, column in run.items()} for run in RUNS for rows in (slice(2), slice(2, 3))]
    for name, column in join(parts, each=2).items():
        np.testing.assert_array_equal(column, stack(RUNS)[name])


def test_the_share_of_images_kept_is_the_smallest_of_all_that_were_taken():
    table = Table.of(stack(RUNS), ORIGIN)
    assert table.take(slice(2)).origin.kept == 1  # chosen, not left out
    kept = table.take(lambda: np.array([0, 2]), of=3)
    assert kept.origin == Origin(ORIGIN.conditions, 2 / 3)
    assert kept.take(np.array([0]), of=1).mse.origin.kept == 2 / 3
    assert kept["label"].tolist() == [[1, 3]] * 2


def test_what_was_asked_of_a_few_images_is_left_out_of_others():
    table = Table.of({"all": np.zeros((2, 5)), "few": np.zeros((2, 3))})
    assert set(table.take(np.arange(2)).columns) == {"all"}


def test_columns_are_loaded_once_when_first_looked_at():
    loads = []

    def load():
        loads.append(1)
        return stack(RUNS), ORIGIN

    table = Table(load)
    parts = [table.take(slice(1)), table.first_draws(2), table.take(slice(2)).first_draws(1)]
    assert loads == []
    assert [part.distinct.shape for part in (*parts, table)] == [(2, 1), (2, 3), (2, 2), (2, 3)]
    assert loads == [1]
