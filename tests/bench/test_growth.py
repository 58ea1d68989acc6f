"""How time and memory grow, as `python -m bench growth` says it."""

import re
import sys

import pytest

from bench import __main__ as command
from bench import growth
from bench.growth import Line, Point, Sizes

LINES = (
    Line("images", "reconstruct, errors", (20, 40)),
    Line("classes", "pgd of a detector, 5 steps", (10, 20), {"images": 3, "draws": 2}),
)


@pytest.mark.slow
def test_what_grows_is_told_on_the_way_and_in_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "LINES", LINES)
    monkeypatch.setattr(sys, "argv", ["bench", "growth", "--axis", "images", "--figure", str(tmp_path / "growth.svg")])
    assert command.main() == 0
    told = capsys.readouterr()
    for count in (20, 40):
        assert re.search(rf"reconstruct, errors, images {count}: \d+\.\d\d s, \d+ MiB more\n", told.err)
    row = r"\| images \| reconstruct, errors \| 20, 40 \| [\d.]+, [\d.]+ \| \d+, \d+ \| -?\d\.\d\d \|"
    assert re.search(row, told.out)
    assert "classes" not in told.out
    assert "<!-- seconds -->" in (tmp_path / "growth.svg").read_text()


@pytest.mark.parametrize("name", growth.CALLS)
def test_each_call_is_one_of_these_sizes(name, tmp_path):
    sizes = Sizes(images=3, draws=2, latent=2, hidden=2, classes=4)
    growth._write(tmp_path / "images.npy", sizes.images)
    seconds, mib = growth._measure(name, sizes, tmp_path / "images.npy")
    assert seconds > 0
    assert mib >= 0
    vae, classifier = sizes.models
    assert (vae.config.latent_size, vae.config.hidden_size) == (40, 800)
    assert classifier.classes == 4


def test_every_line_has_sizes_that_there_are_and_rises():
    for line in growth.LINES:
        assert line.axis in growth.NAMES
        assert line.call in growth.CALLS
        assert [*line.values] == sorted({*line.values})
        assert {getattr(line.sizes(value), line.axis) for value in line.values} == {*line.values}


def test_the_power_of_time_is_that_between_the_last_two():
    points = [Point("draws", "lbfgs", value, seconds, 1.0) for value, seconds in [(1, 5.0), (10, 2.0), (100, 200.0)]]
    assert growth.table(points)[1] == ("draws", "lbfgs", "1, 10, 100", "5.0, 2.0, 200", "1, 1, 1", "2.00")
