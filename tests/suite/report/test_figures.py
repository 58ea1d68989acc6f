"""Can each figure of the catalogue be drawn from results alone, in one look, and do figures show what they say?"""

import io
import json
import math
import os
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vaecore.suite.images import pack, unpack
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.report.figures import consistency, style
from vaecore.suite.report.figures.catalogue import FIGURES, caption, figures_of, shown
from vaecore.suite.report.figures.files import draw
from vaecore.suite.results import to_json

NAN = math.nan

# The catalogue


def test_each_figure_has_a_caption_and_is_shown_where_there_is_what_it_shows(results):
    assert shown(results) == [*FIGURES]
    assert set(FIGURES) - set(shown(results | {"decisions": None})) == {"reliability", "risk-coverage"}
    assert shown({}) == []
    for name in FIGURES:
        said = caption(results, name)
        assert not said.title.endswith(".")
        assert said.text.endswith(".")
        assert any(letter.isdigit() for letter in said.count)
        assert str(said) == f"{said.title}. {said.text} n: {said.count}."


def test_every_claim_has_a_figure_and_every_figure_a_claim():
    of_claim = {name: figures_of(name, FIGURES) for name in load_registry("mnist").claims}
    assert [name for name, figures in of_claim.items() if not figures] == []
    assert {name for figures in of_claim.values() for name in figures} == set(FIGURES)


@pytest.fixture(scope="module")
def drawn(results):
    """Give each figure as it would be rendered, from results as `results.json` holds them."""
    figures, read = [], json.loads(to_json(results))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "render", lambda figure, suffix: figures.append(figure) if suffix == "svg" else None)
        for name in FIGURES:
            draw(read, name)
    return dict(zip(FIGURES, figures, strict=True))


def test_figures_take_title_and_look_from_one_place(results, drawn):
    for name, figure in drawn.items():
        said = caption(results, name)
        assert figure.get_suptitle() == f"mine.npz: {said.title}\nn: {said.count}"
        sizes = {text.get_fontsize() for panel in figure.axes for text in panel.get_xticklabels()}
        assert sizes <= {style.LOOK["xtick.labelsize"], style.SMALL}, name


def test_axes_are_labelled(drawn):
    for name, figure in drawn.items():
        if name in {"contact-sheet", "extreme-images", "cleaned-images", "detection-matrix"}:
            continue  # images, and rows and columns that are names
        for side in ("x", "y"):
            labels = [getattr(panel, f"get_{side}label")() for panel in figure.axes if panel.get_visible()]
            assert any([getattr(figure, f"get_sup{side}label")(), *labels]), (name, side)


def test_a_figure_is_a_file_of_each_kind_and_the_same_twice(results):
    files = draw(results, "distinct-labels")
    assert files["png"].startswith(b"\x89PNG\r\n\x1a\n")
    assert b"<svg" in files["svg"]
    assert b"<dc:date>" not in files["svg"]
    assert draw(results, "distinct-labels") == files


# A user's settings

SETTINGS = {
    "axes.facecolor": "black",
    "savefig.facecolor": "black",
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "text.color": "white",
    "text.usetex": True,  # which needs LaTeX
    "font.family": "no such font",
    "axes.grid": True,
    "lines.linestyle": "none",
    "image.origin": "lower",
    "path.sketch": (1, 100, 2),
    "figure.autolayout": True,
    "axes.formatter.use_mathtext": True,
    "patch.force_edgecolor": True,
    "hatch.color": "red",
    "errorbar.capsize": 9,
    "legend.loc": "center",
}


@pytest.mark.parametrize("name", ["distinct-labels", "reliability", "detection-matrix"])
def test_what_a_user_has_set_does_not_reach_the_figures_and_stays(results, name):
    usual = draw(results, name)
    with mpl.rc_context(SETTINGS):
        assert draw(results, name) == usual
        assert {name: mpl.rcParams[name] for name in SETTINGS} == {**SETTINGS, "font.family": ["no such font"]}


BELOW_A_NOTEBOOK = """
import json, os, pathlib, sys
from vaecore.suite.report.figures.files import draw
results = json.loads(pathlib.Path("results.json").read_text())
for suffix, content in draw(results, "detection-matrix").items():
    pathlib.Path(f"drawn.{suffix}").write_bytes(content)
print(os.environ["MPLBACKEND"], "matplotlib.pyplot" in sys.modules)
"""


@pytest.fixture(scope="module")
def matrix(results):
    """The files of a figure, from results as `results.json` holds them."""
    return draw(json.loads(to_json(results)), "detection-matrix")


@pytest.mark.parametrize("backend", ["no_such_backend", "module://no.such", "QtAgg"])
def test_a_backend_that_is_not_here_does_not_reach_the_figures(results, matrix, tmp_path, backend):
    """As a process below a notebook gets it, or one without a screen; with a matplotlibrc in the folder."""
    (tmp_path / "results.json").write_bytes(to_json(results))
    (tmp_path / "matplotlibrc").write_text("backend: none_such\naxes.facecolor: black\nno.such: 3\n")
    environment = os.environ | {"MPLBACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", BELOW_A_NOTEBOOK],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{backend} False\n"), done.stderr  # and the variable stays
    for suffix, content in matrix.items():
        assert (tmp_path / f"drawn.{suffix}").read_bytes() == content


# The look


def test_a_picture_in_few_colours_looks_alike():
    figure = Figure(figsize=(3, 2))
    panel = figure.subplots()
    panel.imshow(np.linspace(0, 1, 400).reshape(20, 20), cmap="gray")
    panel.plot([0, 19], [0, 19], color=style.ORANGE)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    few = style.render(figure, "png")
    before, after = (np.asarray(Image.open(png).convert("RGB"), dtype=int) for png in (file, io.BytesIO(few)))
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 1.5
    assert len(few) < len(file.getvalue())


def test_each_colour_has_a_line_of_its_own():
    assert len(set(style.COLOURS)) == len(set(style.LINES)) == len(style.COLOURS)


# Families A and B


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "colour"])
def test_the_sheet_shows_each_image_beside_its_draws(channels):
    pixels = np.random.default_rng(0).random((8, channels, 8, 8), dtype=np.float32)
    row = {"pixels": pack(pixels[:2]), "label": [3, 9], "draws": pack(pixels[2:])}
    row |= {"draw_label": [[3, 4, 3], [5, 5, 6]]}
    rows = [row | {"condition": name.lower(), "title": name} for name in ("clean", "L-BFGS")]
    panels = consistency.contact_sheet({"contact_sheet": {"labels": [3, 5], "rows": rows}}).axes
    titles = [panel.get_title() for panel in panels]
    of_image = [["3, is 3", "3", "4 x", "3"], ["9 x, is 5", "5", "5", "6 x"]]
    assert titles == [*of_image[0] * 2, *of_image[1] * 2]
    for panel, title in zip(panels, titles, strict=True):
        wrong = " x" in title
        assert panel.title.get_fontweight() == ("bold" if wrong else "normal")
        assert panel.title.get_color() == (style.RED if wrong else style.BLACK)
    np.testing.assert_array_equal(panels[9].images[0].get_array(), unpack(row["draws"])[3])  # second image, first draw
    assert [panels[place].get_ylabel() for place in (0, 4)] == ["clean", "L-BFGS"]


def bars(share=0.1, low=0.05, high=0.2, title="clean", *, noise=False):
    bar = {"share": share, "low": low, "high": high}
    return {"title": title, "noise": noise, "distinct_labels": [bar] * 10}


def labels(**conditions):
    """The part of the results that the figure of distinct labels shows."""
    return {"conditions": conditions, "panels": ["clean", "lbfgs", "sign"], "draws": 10}


def errors(*changes):
    """The part of the results that the figure of errors by confidence shows, with changes of some bins."""
    bins = [{"from": k / 20, "to": (k + 1) / 20} for k in range(20)]
    bins = [row | {"count": 30, "mse": 0.02, "low": 0.01, "high": 0.03} for row in bins]
    for number, change in changes:
        bins[number] |= change
    return {"error_by_confidence": bins}


EMPTY = {"count": 0, "mse": NAN, "low": NAN, "high": NAN}
UNSURE = {"count": 1, "low": NAN, "high": NAN}


@pytest.mark.parametrize(
    ("draw_it", "part"),
    [
        (consistency.distinct_labels, labels(clean=bars(), lbfgs=bars(), sign=bars(noise=True))),
        (consistency.distinct_labels, labels(clean=bars())),
        (consistency.distinct_labels, labels(clean=bars(low=NAN, high=NAN))),
        (consistency.error_by_confidence, errors()),
        (consistency.error_by_confidence, errors((0, EMPTY), (7, EMPTY))),
        (consistency.error_by_confidence, errors((3, UNSURE))),
        (consistency.error_by_confidence, errors(*((k, UNSURE) for k in range(20)))),
        (consistency.error_by_confidence, errors(*((k, EMPTY) for k in range(20)))),
        (consistency.error_by_confidence, errors((3, {"low": -0.5, "high": 0.9}))),
    ],
    ids=[
        *("usual labels", "one condition", "no intervals of shares", "usual errors", "empty bins"),
        *("no interval in a bin", "no interval in any bin", "no image in any bin", "interval below zero"),
    ],
)
def test_odd_results_are_drawn_and_the_same_twice(draw_it, part):
    assert style.render(draw_it(part), "svg") == style.render(draw_it(part), "svg")


def test_panels_show_the_shares_and_hatch_what_has_no_attacker():
    attack, noise = bars(0.75, 0.7, 0.8, "L-BFGS"), bars(0.5, 0.4, 0.6, "sign noise", noise=True)
    figure = consistency.distinct_labels(labels(clean=bars(0.25, 0.2, 0.3), lbfgs=attack, sign=noise))
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == ["clean", "L-BFGS", "sign noise"]
    assert [panel.patches[0].get_height() for panel in panels] == [0.25, 0.75, 0.5]
    assert [panel.patches[0].get_hatch() for panel in panels] == [None, None, style.HATCH]


def test_an_empty_bin_has_no_bar_and_a_count_of_nought():
    counts, heights = consistency.error_by_confidence(errors((0, EMPTY), (3, UNSURE))).axes
    assert len([patch for patch in heights.patches if patch.get_height() > 0]) == 19
    assert [text.get_text() for text in counts.texts] == ["0", "30", "30", "1", *["30"] * 16]


def test_convergence_shows_every_trial(results, drawn):
    panels = drawn["convergence"].axes
    assert [panel.get_xlabel() for panel in panels] == [
        "$\\epsilon$ (L-infinity, pixel intensity)",
        "steps (count)",
        "EOT draws a step (count)",
    ]
    lines = {line.get_label(): line for line in panels[0].lines}
    weaker = {f"{attack} on the {victim}" for attack in ("PGD", "Square") for victim in ("detector", "classifier")}
    assert set(lines) == weaker | {"BPDA on the detector"}
    for label, sweep in (("PGD on the detector", "epsilon"), ("PGD on the classifier", "epsilon, classifier alone")):
        assert list(lines[label].get_ydata()) == [trial["success"] for trial in results["trials"][sweep]]
    assert list(panels[1].lines[0].get_xdata()) == [trial["steps"] for trial in results["trials"]["steps"]]
