"""Is the page whole, self-contained, safe against odd names, and honest in what it draws?"""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vaecore._store import write_atomically
from vaecore.suite import cli as command
from vaecore.suite import results as results_file
from vaecore.suite.judging.registry import Bound, load_registry
from vaecore.suite.packing import unpack
from vaecore.suite.report import forest, page
from vaecore.suite.report import summary as report
from vaecore.suite.report.captions import FIGURES, caption
from vaecore.suite.study import contact_sheet as contact
from vaecore.suite.study import threats
from vaecore.suite.study.cleaning import CLEANED, MAJORITY
from vaecore.suite.study.decisions import ASKED
from vaecore.suite.study.draws import CONDITIONS
from vaecore.suite.study.study import PROFILES

PNG = bytes.fromhex(  # one black pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63600000000200014873afa40000000049454e44ae426082"
)
FAKE = {f"{name}.{suffix}": PNG + b"larger" * (suffix == "svg") for name in FIGURES for suffix in ("png", "svg")}
VOID = {"meta", "link", "img", "input", "br", "line", "rect", "path", "circle", "use"}


class Page(HTMLParser):
    """Read a page into elements: (tag, attributes, the text within); raises where tags do not close."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, *tags, **attributes):
        return [
            (tag, found, " ".join("".join(texts).split()))
            for tag, found, texts in self.elements
            if (not tags or tag in tags) and all(found.get(name) == value for name, value in attributes.items())
        ]


def claim(name="X1", **changes):
    """Give a claim as the results hold it."""
    return {
        "claim": name,
        "verdict": "supported",
        "message": f"{name} supported",
        "estimate": 0.8,
        "low": 0.7,
        "high": 0.9,
        "level": 0.95,
        "bound": "> 0.60",
        "bound_low": 0.6,
        "bound_high": None,
        "runs": 2,
        "images": 12,
        "per_run": [0.75, 0.85],
        "power": 0.9,
        "needed_images": None,
        "needed_runs": None,
        "conditions": ["clean"],
        "kind": "finding",
        "sentence": f"A sentence of {name}.",
        "estimand": "a share",
        "source": "a study",
        "pilot": "",
        "registered": "",
        "reported": "",
        "no_effect": {"low": 0.5, "high": None},
        "more": "than the page knows",
    } | changes


NOTHING = {
    "estimate": None,
    "low": None,
    "high": None,
    "per_run": [None, None],
    "power": None,
    "verdict": "inconclusive",
}
VARIANTS = {
    "usual": {},
    "without decisions": {"decisions": None},
    "pilot": {"pilot": True, "claims": [claim("A1", verdict="pilot", bound="> 0.65", bound_low=0.65)]},
    "one run": {"seeds": [0], "claims": [claim("A1", per_run=[0.8], runs=1)]},
    "smoke": {"profile": "smoke", "claims": [claim("A1", verdict="inconclusive")]},
    "no claims": {"claims": []},
    "undefined": {"claims": [claim("A1", **NOTHING), claim("A2", low=None, high=None)]},
    "NaN": {"claims": [claim("A1", estimate=float("nan"), low=float("nan"), high=float("inf"))]},
    "own families": {"claims": [claim("X1"), claim("Q2b")]},
    "other runs": {"claims": [claim("A1", per_run=[0.1, 0.2, 0.3], runs=3)]},
    "flags": {"sanity_flags": ["FGSM <0.1> & more: weak"]},
    "all concluded": {"not_concluded": {}},
}


PARTS = ("sanity_flags", "weaker_attacks", "trials", "detection", "cleaning", "decisions", "contact_sheet")


@pytest.fixture(scope="module", params=[*VARIANTS, "verdicts alone"])
def variant(request, results):
    if request.param in VARIANTS:
        return page.render(results | VARIANTS[request.param], FAKE)
    alone = {key: value for key, value in results.items() if key not in PARTS}
    return page.render(alone | {"conditions": {}, "claims": [claim("X1"), claim("OWN12b")]}, FAKE)


# The whole


def test_the_page_is_whole_and_needs_nothing_else(variant):
    read = Page(variant)
    assert variant.startswith("<!DOCTYPE html>")
    assert read.all("html")[0][1]["lang"] == "en"
    for attribute in ("src", "href", "action", "data", "poster", "srcset"):
        for tag, attributes, _ in read.all():
            if attribute in attributes:
                assert attributes[attribute].startswith(("#", "data:")), (tag, attribute)
    (policy,) = read.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy[1]["content"]
    (style,) = read.all("style")
    assert "url(" not in style[2]
    assert "@import" not in style[2]
    (script,) = read.all("script")
    assert not re.search(r"fetch|XMLHttpRequest|import\(|https?:", script[2])


def test_ids_are_unique_and_links_lead_somewhere(variant):
    read = Page(variant)
    ids = [attributes["id"] for _, attributes, _ in read.all() if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not any(re.search(r"\s", name) for name in ids)
    for _, attributes, _ in read.all("a", "use"):
        assert attributes["href"][1:] in ids
    for _, attributes, _ in read.all("details"):
        assert attributes.get("data-figure", ids[0]) in ids
    for _, attributes, _ in read.all():
        for name in attributes.get("aria-labelledby", "").split():
            assert name in ids


def test_headings_are_in_order(variant):
    levels = [int(tag[1]) for tag, _, _ in Page(variant).all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_everything_has_a_name(variant):
    read = Page(variant)
    for _, attributes, _ in read.all("img"):
        assert len(attributes["alt"]) > 20
    for _, attributes, _ in read.all("svg"):
        assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])
    labels = [text for _, _, text in read.all("label")]
    assert [text.split()[0] for text in labels] == ["Search", "Verdict", "Kind"]
    assert all(text for _, _, text in read.all("button", "summary", "th", "a", "h2", "h3"))
    for _, attributes, _ in read.all(role="region"):
        assert attributes["aria-label"]
        assert attributes["tabindex"] == "0"  # what scrolls must be reached by keyboard
    assert {tag for tag, _, _ in read.all("header", "nav", "main", "footer")} == {"header", "nav", "main", "footer"}
    (skip,) = read.all("a", **{"class": "skip"})
    assert skip[1]["href"] == "#main"


def test_names_are_escaped(results):
    name, model = "<b>x", '"><script>alert(1)</script>'
    found = results | {
        "dataset": results["dataset"] | {"name": name, "why": "<i>asked"},
        "models": results["models"] | {"vae": model},
        "command": f"pytest claims --vae '{model}'",
        "claims": [claim("X<1", sentence="1 < 2 & 3.", conditions=["outside/<u>"]), claim("X 2", kind="control")],
    }
    text = page.render(found, FAKE)
    assert "<b>x" not in text
    assert "<i>asked" not in text
    assert "<u>" not in text
    assert text.count("<script>") == 1
    read = Page(text)
    assert read.all("h1")[0][2] == "Claims on <b>x"
    assert [text for _, _, text in read.all("h4")] == ["X<1 1 < 2 & 3.", "X 2 A sentence of X 2."]


def test_the_page_of_the_file_is_that_of_the_study(results):
    read = json.loads(results_file.to_json(results))
    assert page.render(read, FAKE) == page.render(results, FAKE)


# What it says


def test_each_claim_says_everything(results):
    read = Page(page.render(results, FAKE))
    for one in results["claims"]:
        (found,) = read.all("details", id=f"claim-{one['claim']}")
        text = found[2]
        assert found[1]["data-verdict"] == one["verdict"]
        assert found[1]["data-kind"] == one["kind"]
        for key in ("sentence", "source", "estimand", "message", "bound"):
            assert one[key] in text
        assert f"{one['runs']} run" in text
        assert f" {one['images']} images" in text
        for value, seed in zip(one["per_run"], results["seeds"], strict=False):
            shown = forest.number(value)
            assert (f"seed {seed} {shown}" if len(one["per_run"]) == 2 else f"run 1 {shown}") in text
        for condition in one["conditions"]:
            assert f"{condition} {threats.threat(condition)}" in text
    (known,) = read.all("details", id="claim-A1")
    assert "level 0.9972" in known[2]
    assert "no effect: none is registered for these data" in known[2]


def test_a_registered_bound_and_its_pilot_are_shown(results):
    registered = claim("A1", registered="2026-11-22", pilot="0.885 (sd 0.006, 3 runs)")
    reported = claim("A2", verdict="reported", reported="no bound fits", bound="none", bound_low=None)
    read = Page(page.render(results | {"claims": [registered, reported]}, FAKE))
    assert "> 0.60, registered 2026-11-22" in read.all("details", id="claim-A1")[0][2]
    assert "0.885 (sd 0.006, 3 runs)" in read.all("details", id="claim-A1")[0][2]
    assert "none: no bound fits" in read.all("details", id="claim-A2")[0][2]


def test_the_overview_counts_verdicts(results):
    claims = [claim("A1"), claim("A2"), claim("B1", verdict="refuted"), claim("B2", kind="limit")]
    read = Page(page.render(results | {"claims": claims}, FAKE))
    tiles = [text for _, attributes, text in read.all("li") if attributes.get("class", "").startswith("tile")]
    assert tiles == ["3 supported", "1 refuted", "0 inconclusive"]
    (matrix,) = read.all("table", **{"class": "matrix"})
    assert re.search(r"A\. Consistency of labels over the reconstructions 2 \S B\. .* confidence 1 1$", matrix[2])
    sentences = [text for _, attributes, text in read.all("a") if attributes["href"].startswith("#claim-")]
    assert sentences[:3] == [f"{name} A sentence of {name}." for name in ("A1", "A2", "B1")]


def test_an_own_family_goes_by_its_letters_or_its_title(results):
    claims = [claim(name) for name in ("A1", "X1", "X2b", "OWN3", "Y")]
    read = Page(page.render(results | {"claims": claims, "families": results["families"] | {"OWN": "Of my own"}}, FAKE))
    titles = [text for _, attributes, text in read.all("h3") if attributes.get("id", "").startswith("family-")]
    assert titles == ["A. Consistency of labels over the reconstructions", "X", "OWN. Of my own", "Y"]


def test_beside_a_claim_stand_its_controls(results):
    claims = [
        claim("A1", conditions=["clean", "fgsm-0.2"]),
        claim("A2", conditions=["clean", "fgsm-0.2"]),
        claim("A3", conditions=["fgsm-0.2", "sign-0.2"], kind="control"),
        claim("A4", conditions=["clean", "lbfgs"], kind="limit"),  # shares what all claims share, which tells nothing
        claim("A5", conditions=["clean"]),
        claim("B1", conditions=["fgsm-0.2"], kind="baseline"),
    ]
    (family, _) = page._families(results | {"claims": claims}, {})
    beside = {entry.facts["claim"]: [other["claim"] for _, other in entry.beside] for entry in family.entries}
    assert beside == {"A1": ["A3"], "A2": ["A3"], "A3": [], "A4": [], "A5": ["A4"]}


def test_figures_stand_with_their_claims_and_captions(results):
    text = page.render(results, FAKE)
    read = Page(text)
    shown = [attributes["id"].removeprefix("figure-") for _, attributes, _ in read.all("figure")]
    assert shown == [*FIGURES]
    for number, (name, (_, _, said)) in enumerate(zip(FIGURES, read.all("figcaption"), strict=True), 1):
        assert said == f"Figure {number}. {caption(results, name)}"
        assert re.search(r" n: .*\d", said)
    assert "larger" not in text
    assert text.count("data:image/png;base64,") == len(FIGURES)
    here = [attributes["data-figure"] for _, attributes, _ in read.all("details", **{"class": "here"})]
    assert here == [*["figure-distinct-labels", "figure-contact-sheet"] * 3, "figure-error-by-confidence"]
    some = page.render(results, {"convergence.svg": b"<svg/>"})
    assert [attributes["src"] for _, attributes, _ in Page(some).all("img")] == ["data:image/svg+xml;base64,PHN2Zy8+"]


def test_summary_has_the_same_captions(results):
    text = report.summary(results) + report.detection_page(results)
    for name in FIGURES:
        said = caption(results, name)
        assert f"\n![{said.title}]({name}.png)\n\n{said}\n" in text, name


def test_every_claim_has_a_figure_and_every_figure_a_claim(results):
    known = load_registry("mnist").claims
    pictures = page._pictures(results, FAKE)
    of_claim = {name: page.figures_of(name, pictures) for name in known}
    assert [name for name, found in of_claim.items() if not found] == []
    assert {name for found in of_claim.values() for name in found} == set(FIGURES)


def test_provenance_says_how_to_make_it_again(results, tiny):
    words = "--dataset mine.npz --profile standard --runs 2 --device cpu"
    models = "--vae conftest.models:vae --classifier conftest.models:classifier"
    assert results["command"].replace("tests.", "") == f"pytest claims {words} {models}"
    assert str(Path(tiny.dataset.name).parent) not in results_file.to_json(results).decode()
    read = Page(page.render(results, FAKE))
    assert read.all("pre")[0][2] == results["command"]
    (found,) = read.all("section", id="provenance")
    for digest in (results["registry_digest"], *(one["vae"] for one in results["models"]["digests"])):
        assert digest in found[2]
    for name, number in results["environment"]["packages"].items():
        assert f"{name} {number}" in found[2]


def test_the_command_has_every_option_that_matters_and_no_folder(tiny, registry):
    study = replace(
        tiny,
        vae="/home/me/models.py:make",
        classifier=None,
        ood=("rotated-30", "/home/me/cats and dogs.npz"),
        precision="bfloat16",
        profile=replace(PROFILES["full"], runs=3),
    )
    assert report._command(study, registry, pilot=True) == (
        "pytest claims --dataset mine.npz --profile full --runs 3 --device cpu --precision bfloat16"
        " --vae models.py:make --ood rotated-30 --ood 'cats and dogs.npz' --pilot"
    )
    assert "--runs" not in report._command(replace(study, profile=PROFILES["full"]), registry, pilot=False)


# Threat models


def test_every_condition_has_a_threat_model(tiny):
    sets = [f"outside/{name}" for name in ("inside", *tiny.outside.sources)]
    asked = [name if name in (*CONDITIONS, *CLEANED) else f"decisions/{name}" for name in ASKED]
    committed = json.loads((Path(__file__).parents[1] / "reports/mnist/results.json").read_text())
    seen = {condition for one in committed["claims"] for condition in one["conditions"]}
    purified = [f"purified/{name}/pgd-0.1" for name in tiny.cleaning.models(0)]
    for condition in {*CONDITIONS, *CLEANED, *sets, *asked, *seen, *purified}:
        text = threats.threat(condition)
        assert text.endswith(".")
        assert ("No attacker" in text) != ("knows" in text), condition
        size = condition.rpartition("/")[2].rpartition("-")[2]
        if re.fullmatch(r"0\.\d+|\d\d", size):
            assert size in text


def test_a_condition_without_threat_model_is_an_error():
    for condition in ("fgm-0.1", "decisions/sheared-3", "elsewhere/x", "outer/inside"):
        with pytest.raises(ValueError, match=r"must have a threat model in claims/threats\.py"):
            threats.threat(condition)


def test_an_attack_through_a_purifier_is_noted(tiny):
    tiny.looked_at.clear()
    tiny.cleaning.attacked(MAJORITY, 0.1)
    assert tiny.looked_at == {f"purified/{MAJORITY}/pgd-0.1"}


# The plots


def value_of(plot, place):
    """Read a place off the axis by its ticks."""
    places, numbers = zip(*[(x, float(text)) for x, text in plot.ticks], strict=True)
    slope, start = np.polyfit(places, numbers, 1)
    return slope * place + start


def test_the_forest_is_to_scale():
    one = claim(per_run=[0.72, 0.75, 0.81], bound_high=0.95)
    plot = forest.forest(one)
    for place, value in [
        (plot.estimate, 0.8),
        (plot.low, 0.7),
        (plot.high, 0.9),
        *zip(plot.per_run, one["per_run"], strict=True),
        *zip(plot.bounds, (0.6, 0.95), strict=True),
        *zip(plot.no_effect, (0.5,), strict=True),
    ]:
        assert 0 < place < 100
        assert value_of(plot, place) == pytest.approx(value, abs=2e-4)
    assert plot.shaded == (plot.bounds[0], pytest.approx(plot.bounds[1] - plot.bounds[0]))
    assert plot.text == "X1: estimate 0.800, interval 0.700 to 0.900, bound > 0.60; runs: 0.720, 0.750, 0.810"


@pytest.mark.parametrize(
    ("bounds", "shaded"),
    [((0.6, None), lambda x: (x[0], 100 - x[0])), ((None, 0.6), lambda x: (0, x[0])), ((None, None), lambda _: None)],
    ids=["above", "below", "none"],
)
def test_what_supports_is_shaded(bounds, shaded):
    plot = forest.forest(claim(bound_low=bounds[0], bound_high=bounds[1]))
    assert plot.shaded == shaded(plot.bounds)


def test_no_effect_is_left_out_where_it_would_flatten_the_rest():
    narrow = {"estimate": 0.997, "low": 0.995, "high": 0.999, "per_run": [0.997], "bound_low": 0.99}
    plot = forest.forest(claim(**narrow))
    assert plot.no_effect == []
    assert plot.high - plot.low > 20


def test_a_forest_of_what_is_not_defined():
    assert forest.forest(claim(**NOTHING)) is None
    half = forest.forest(claim(low=None))
    assert half.low is None
    assert half.estimate < half.high
    alone = forest.forest(
        claim(low=None, high=None, per_run=[0.8], bound_low=None, no_effect={"low": None, "high": None})
    )
    assert alone.estimate == pytest.approx(50)
    assert len(alone.ticks) >= 3


@pytest.mark.parametrize("bound", [Bound(low=0.3), Bound(high=0.3), Bound(-0.2, 0.3)], ids=str)
def test_the_margin_clears_the_line_where_the_claim_is_supported(bound):
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        middle, half = rng.normal(0, 0.5), rng.exponential(0.2)
        low, high = middle - half, middle + half * rng.uniform(0.5, 1)
        verdict = bound.verdict(SimpleNamespace(low=low, high=high))
        one = claim(estimate=middle, low=low, high=high, bound_low=bound.low, bound_high=bound.high)
        plot = forest.margin(one)
        line = forest.shared(0)
        assert plot.low <= plot.estimate <= plot.high
        if not np.isinf([bound.low, bound.high]).any():  # the far side may be missed as well
            assert verdict != "supported" or plot.low >= line
        else:
            side = "supported" if plot.low > line else "refuted" if plot.high < line else "inconclusive"
            assert side == verdict
        seen.add(verdict)
    assert seen == {"supported", "refuted", "inconclusive"}


def test_intervals_are_equally_long_on_the_shared_axis():
    lengths = [plot.high - plot.low for plot in (forest.margin(claim()), forest.margin(claim(low=0.75, high=0.81)))]
    assert lengths[0] == pytest.approx(forest.shared(2) - forest.shared(0), abs=0.02)
    assert lengths[1] == pytest.approx(lengths[0], abs=0.02)
    assert forest.margin(claim(estimate=0.9, low=0.899, high=0.901)).beyond == 1
    assert forest.margin(claim(estimate=0.1, low=0.099, high=0.101)).beyond == -1
    assert forest.margin(claim(bound_low=None)) is None
    assert forest.margin(claim(high=None)) is None


@pytest.mark.parametrize("ends", [(0, 1), (-0.003, 0.002), (1e-7, 3e-7), (-2500, 10), (0.94, 1.002), (0.5, 0.5001)])
def test_ticks_are_few_round_and_told_apart(ends):
    found = forest.ticks(*ends)
    assert 3 <= len(found) <= 9
    assert all(ends[0] - 1e-12 <= value <= ends[1] + 1e-12 for value, _ in found)
    assert len({text for _, text in found}) == len(found)
    assert all(float(text) == pytest.approx(value, abs=1e-12) for value, text in found)


def test_what_is_measured_fits_in_a_cell():
    assert forest.measured(claim()) == "0.800 [0.700, 0.900]"
    assert forest.measured(claim(low=None)) == "0.800 no interval"
    assert forest.measured(claim(**NOTHING)) == "not defined"


def test_numbers_are_never_rounded_to_nothing():
    shown = [forest.number(value) for value in (0.9026, -1.5, 0.0, 0.00004, -0.0009, None, float("nan"))]
    assert shown == ["0.903", "-1.500", "0.000", "4e-05", "-0.0009", "not defined", "not defined"]


# Colours


def colours(scheme):
    """The colours of the page in light or in dark."""
    text = files("claims").joinpath("templates/page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    found = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", light))
    return found if scheme == "light" else found | dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", dark))


def contrast(one, other):
    """Contrast by WCAG 2.2."""
    shades = []
    for colour in (one, other):
        parts = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        shades.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(shades) + 0.05) / (min(shades) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read_on_every_ground(scheme):
    found = colours(scheme)
    for ground in ("ground", "raised"):
        for ink in ("ink", "soft", "link", "supported", "refuted", "inconclusive", "reported", "pilot", "focus"):
            assert contrast(found[ink], found[ground]) >= 4.5, (ink, ground)
    for ink in ("ink", "soft", "supported", "refuted", "inconclusive", "pilot"):
        assert contrast(found[ink], found["supports"]) >= 4.5, ink


def test_every_verdict_has_a_shape(results):
    claims = [claim(f"A{n}", verdict=verdict) for n, verdict in enumerate(page.VERDICTS)]
    text = page.render(results | {"claims": claims}, {})
    shapes = re.findall(r'<symbol id="mark-(\w+)"[^>]*>(.*?)</symbol>', text)
    assert {name for name, _ in shapes} == set(page.VERDICTS)
    assert len({shape for _, shape in shapes}) == len(page.VERDICTS)


# The contact sheet


def test_the_contact_sheet_shows_the_evidence(results, tiny):
    sheet = results["contact_sheet"]
    indices = tiny.indices[: contact.IMAGES]
    assert sheet["indices"] == indices.tolist()
    assert sheet["labels"] == tiny.test.labels[indices].tolist()
    assert [row["condition"] for row in sheet["rows"]] == [*contact.SHEET]
    for row in sheet["rows"]:
        table = tiny.table(row["condition"])
        count = len(indices)
        assert row["label"] == table["predicted"][0, :count].tolist()
        assert row["success"] == table["success"][0, :count].tolist()
        assert row["draw_label"] == table["draw_label"][0, :count, :10].tolist()
        images, draws = (unpack(row[key]).astype(float) / 255 for key in ("pixels", "draws"))
        draws = draws.reshape(count, 10, 8, 8)
        error = np.square(draws - images[:, None]).mean(axis=(2, 3))
        np.testing.assert_allclose(error, table["draw_mse"][0, :count, :10], atol=5e-3)  # 8-bit pixels


def test_the_contact_sheet_is_kept(results, tiny, monkeypatch):  # results: it was gathered before
    monkeypatch.setattr(contact, "perturb", None)
    assert contact.gather(tiny)["rows"]


# The command


def page_of(monkeypatch, folder):
    monkeypatch.setattr(sys, "argv", ["claims", "page", str(folder)])
    return command.main()


def test_the_page_is_drawn_again_from_a_folder(results, tmp_path, monkeypatch, capsys):
    write_atomically(tmp_path / "results.json", results_file.to_json(results))
    for name, content in FAKE.items():
        write_atomically(tmp_path / name, content)
    assert page_of(monkeypatch, tmp_path) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n"
    assert (tmp_path / "index.html").read_text() == page.render(results, FAKE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a results.json or the folder of a report"),
        ('{"schema": 1}', "must have schema 2; got 1 (written by another version"),
        ("[]", "must have schema 2; got None"),
        ("{", "must be what `pytest claims` wrote"),
    ],
    ids=["none", "older", "a list", "cut off"],
)
def test_a_folder_without_fit_results_is_an_error(tmp_path, monkeypatch, capsys, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        page_of(monkeypatch, tmp_path)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists()
