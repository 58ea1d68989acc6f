"""Do figures look alike, say of how many they are, and show images of one channel or three as they are?"""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from vaecore.suite.packing import pack, unpack
from vaecore.suite.report import figure_files as drawings
from vaecore.suite.report import figures, style
from vaecore.suite.report.captions import FIGURES, caption, shown


def pixels(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


# Images as text


@pytest.mark.parametrize(("channels", "shape"), [(1, (4, 5, 6)), (3, (4, 5, 6, 3))], ids=["grey", "colour"])
def test_images_come_back(channels, shape):
    images = pixels(4, channels, 5, 6)
    back = unpack(pack(images))
    assert back.shape == shape
    expected = (images * 255).round().numpy()
    np.testing.assert_array_equal(back.reshape(4, 5, 6, channels), np.moveaxis(expected, 1, -1))


@pytest.mark.parametrize("shape", [(4, 2, 5, 6), (4, 5, 6)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must be \(n, 1, h, w\) or \(n, 3, h, w\); got"):
        pack(pixels(*shape))


# The contact sheet


def sheet(channels=1, labels=(3, 5)):
    """Give the results of a contact sheet of two conditions, two images and three draws."""
    rows = [
        {
            "condition": condition,
            "pixels": pack(pixels(2, channels, 8, 8)),
            "label": [3, 9],
            "success": [True, True],
            "draws": pack(pixels(6, channels, 8, 8)),
            "draw_label": [[3, 4, 3], [5, 5, 6]],
        }
        for condition in ("clean", "lbfgs")
    ]
    return {"contact_sheet": {"labels": list(labels), "indices": [0, 1], "rows": rows}, "seeds": [0]}


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_each_image_beside_its_draws(channels):
    results = sheet(channels)
    panels = figures.contact_sheet(results).axes
    titles = [panel.get_title() for panel in panels]
    of_image = [["3, is 3", "3", "4 x", "3"], ["9 x, is 5", "5", "5", "6 x"]]
    assert titles == [*of_image[0] * 2, *of_image[1] * 2]
    for panel, title in zip(panels, titles, strict=True):
        wrong = " x" in title
        assert panel.title.get_fontweight() == ("bold" if wrong else "normal")
        assert panel.title.get_color() == (style.RED if wrong else style.BLACK)
    made = unpack(results["contact_sheet"]["rows"][0]["draws"])
    np.testing.assert_array_equal(panels[9].images[0].get_array(), made[3])  # the second image's first draw
    assert panels[0].get_ylabel() == "clean"
    assert panels[4].get_ylabel() == "L-BFGS"


# All figures


def test_each_figure_has_a_caption_and_a_place(results):
    assert set(shown(results)) == set(FIGURES) == set(drawings.DRAWINGS)
    assert set(shown(results | {"decisions": None})) == set(FIGURES) - {
        "reliability",
        "risk-coverage",
    }
    for name in FIGURES:
        said = caption(results, name)
        assert not said.title.endswith(".")
        assert said.text.endswith(".")
        assert any(letter.isdigit() for letter in said.count)


@pytest.fixture(scope="module")
def drawn(results):
    """Give each figure as it would be rendered."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "render", lambda figure, suffix: found.append(figure) if suffix == "svg" else None)
        for name in FIGURES:
            drawings.draw(results, name)
    return dict(zip(FIGURES, found, strict=True))


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


def test_a_picture_in_few_colours_looks_alike():
    figure = Figure(figsize=(3, 2))
    panel = figure.subplots()
    panel.imshow(np.linspace(0, 1, 400).reshape(20, 20), cmap="gray")
    panel.plot([0, 19], [0, 19], color=style.ORANGE)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    before, after = (
        np.asarray(Image.open(png).convert("RGB"), dtype=int) for png in (file, io.BytesIO(style.render(figure, "png")))
    )
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 1.5
    assert len(style.render(figure, "png")) < len(file.getvalue())


def test_each_colour_has_a_line_of_its_own():
    assert len(set(style.COLOURS)) == len(set(style.LINES)) == len(style.COLOURS)
