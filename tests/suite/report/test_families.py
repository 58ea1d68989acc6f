"""Figures and pages of families C, D and E show every number that the results hold, and the same twice."""

import json

import pytest

from vaecore.suite.report.figures import cleaning as figures_cleaning
from vaecore.suite.report.figures import decisions as figures_decisions
from vaecore.suite.report.figures import outside as figures_outside
from vaecore.suite.report.figures import style
from vaecore.suite.report.markdown import cleaning, decisions, outside
from vaecore.suite.results import to_json


@pytest.mark.parametrize(
    "draw",
    [
        figures_outside.detection_matrix,
        figures_outside.score_histograms,
        figures_outside.latent_space,
        figures_outside.extreme_images,
        figures_cleaning.accuracy_by_epsilon,
        figures_cleaning.cleaned_images,
        figures_decisions.reliability_diagrams,
        figures_decisions.risk_coverage,
    ],
)
def test_figures_are_the_same_twice_and_when_drawn_from_what_is_read_back(results, draw):
    first, second = (style.render(draw(which), "svg") for which in (results, json.loads(to_json(results))))
    assert first == second
    assert b"<svg" in first


def test_the_heat_map_has_every_number(results):
    axes, cells = figures_outside.detection_matrix(results).axes[0], results["detection"]["cells"]
    shown = [text.get_text() for text in axes.texts]
    assert shown == [f"{cell['auroc']:.2f}" for row in cells.values() for cell in row.values()]
    assert [label.get_text() for label in axes.get_yticklabels()] == [*cells]
    assert [label.get_text() for label in axes.get_xticklabels()] == [*next(iter(cells.values()))]


def test_no_histogram_panel_is_left_empty(results):
    panels = [panel for panel in figures_outside.score_histograms(results).axes if panel.get_visible()]
    assert [panel.get_title() for panel in panels] == [*results["detection"]["cells"]]


DRAWN = ("ignoring", "through", "flipped", "queried", "none")  # in the order of a panel's lines


def test_curves_show_every_accuracy(results):
    panels = [panel for panel in figures_cleaning.accuracy_by_epsilon(results).axes if panel.get_visible()]
    for panel, (name, rows) in zip(panels, results["cleaning"]["attacked"].items(), strict=True):
        assert panel.get_title().startswith(name)
        every = [[row[kind]["accuracy"] for row in rows if kind in row] for kind in DRAWN]
        expected = [accuracies for accuracies in every if accuracies]
        assert [line.get_ydata().tolist() for line in panel.get_lines()] == expected


def test_the_page_of_detection_has_a_table_for_each_measure(results):
    text, content = outside.page(results), results["detection"]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| score")]
    groups = dict.fromkeys(content["groups"].values())
    assert len(rows) == 4 * len(groups) * len(content["cells"]) + len(content["found"]["shares"])
    for name, whole in content["cells"].items():
        for group in groups:
            row = [cell for label, cell in whole.items() if content["groups"][label] == group]
            intervals = [f"{cell['auroc']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in row]
            assert f"| {name} | {' | '.join(intervals)} |" in rows
            for measure in ("aupr_out", "aupr_in", "fpr95"):
                assert f"| {name} | {' | '.join(f'{cell[measure]:.3f}' for cell in row)} |" in rows
        assert f"- **{name}**: {content['about'][name]}" in text
    for name, shares in content["found"]["shares"].items():
        assert f"| {name} | {' | '.join(f'{value:.3f}' for value in shares.values())} |" in rows


def test_the_page_of_detection_shows_what_hides_and_other_vaes_where_there_is_a_set_for_it(results):
    names = ("auroc_before", "auroc", "found_before", "found")
    cells = {judge: dict(zip(names, values, strict=True)) for judge, values in {"kl": (0.9, 0.3, 0.8, 0.1)}.items()}
    hiding = {"set": "letters", "epsilon": 0.3, "images": 7, "rows": {"kl": cells}}
    area = {"auroc": 0.2, "low": 0.1, "high": 0.3, "fpr95": 0.99}
    abroad = {"set": "letters", "images": {"inside": 20, "outside": 30}, "cells": {"elbo": area}}
    text = outside.page(results | {"detection": results["detection"] | {"hiding": hiding, "abroad": abroad}})
    for line in (
        "| kl: AUROC | 0.900 to 0.300 |",
        "| kl: found | 0.800 to 0.100 |",
        "| elbo | 0.200 [0.100, 0.300] | 0.990 |",
        "## The other way round: VAEs trained on letters",
    ):
        assert line in text.splitlines()
    assert "hide from" not in outside.page(results)


def test_the_summary_has_both_tables_of_cleaning(results):
    lines, content = [], results["cleaning"]
    cleaning.section(results, lines.append)
    text = "\n".join(lines)
    for condition, row in content["accuracy"].items():
        shown = " | ".join(f"{cell['accuracy']:.3f}" for cell in row.values())
        assert f"| {condition} | {content['images'][condition]} | {shown} |" in text
    for name, rows in content["attacked"].items():
        kinds = ("ignoring", "through", "flipped", "queried", "worst")
        cells = [" / ".join(f"{row[kind]['accuracy']:.2f}" for kind in kinds if kind in row) for row in rows]
        assert f"| {name} | {rows[0]['images']} | {' | '.join(cells)} |" in text


def test_the_page_of_decisions_has_a_row_for_every_judge_and_condition(results):
    text, measures = decisions.page(results), results["decisions"]["measures"]
    for judge in next(iter(measures.values())):
        assert sum(line.startswith(f"| {judge} |") for line in text.splitlines()) == len(measures)
    nll = measures["clean"]["temperature"]["nll"]
    assert f"{nll['estimate']:.4f} [{nll['low']:.4f}, {nll['high']:.4f}]" in text
