"""Is the page whole, self-contained, safe against odd names, and honest in what it says?"""

import os
import re
from html.parser import HTMLParser
from importlib.resources import files as package_files
from itertools import pairwise

import numpy as np
import pytest

from vaecore.suite.cli import main
from vaecore.suite.report import forest, page
from vaecore.suite.report.figures.catalogue import FIGURES, caption
from vaecore.suite.results import SCHEMA, to_json

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
            (tag, of_tag, " ".join("".join(texts).split()))
            for tag, of_tag, texts in self.elements
            if (not tags or tag in tags) and all(of_tag.get(name) == value for name, value in attributes.items())
        ]

    def texts(self, *tags, **attributes):
        return [text for _, _, text in self.all(*tags, **attributes)]


VARIANTS = {  # changes of the results, and of their claims by id
    "usual": ({}, None),
    "without decisions": ({"decisions": None}, None),
    "pilot": ({"pilot": True}, {"A1": {"verdict": "pilot", "bound": "> 0.65", "bound_low": 0.65}}),
    "one run": ({"seeds": [0]}, {"A1": {"per_run": [0.8], "runs": 1}}),
    "smoke": ({"profile": "smoke"}, {"A1": {"verdict": "inconclusive"}}),
    "no claims": ({}, {}),
    "undefined": ({}, {"A1": "undefined", "A2": {"low": None, "high": None}}),
    "NaN": ({}, {"A1": {"estimate": float("nan"), "low": float("nan"), "high": float("inf")}}),
    "own families": ({}, {"X1": {}, "Q2b": {}}),
    "other runs": ({}, {"A1": {"per_run": [0.1, 0.2, 0.3], "runs": 3}}),
    "flags": ({"sanity_flags": ["FGSM <0.1> & more: weak"]}, None),
    "all concluded": ({"not_concluded": {}}, None),
    "verdicts alone": ({"conditions": {}}, {"X1": {}, "OWN12b": {}}),
}
PARTS = ("sanity_flags", "weaker_attacks", "trials", "detection", "cleaning", "decisions", "contact_sheet")


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, results, claim, files):
    changes, claims = VARIANTS[request.param]
    if claims is not None:
        made = [claim(name, **(claim.undefined if of == "undefined" else of)) for name, of in claims.items()]
        changes = changes | {"claims": made}
    parts = PARTS if request.param == "verdicts alone" else ()
    return page.render({key: value for key, value in (results | changes).items() if key not in parts}, files)


@pytest.fixture
def read(results, files):
    """Give a function that draws the page of the results with these changes, and reads it."""
    return lambda **changes: Page(page.render(results | changes, files))


# The whole


def test_the_page_is_whole_and_needs_nothing_else(variant):
    read = Page(variant)
    assert variant.startswith("<!DOCTYPE html>")
    assert read.all("html")[0][1]["lang"] == "en"
    for attribute in ("src", "href", "action", "data", "poster", "srcset"):
        for tag, attributes, _ in read.all():
            assert attributes.get(attribute, "#").startswith(("#", "data:")), (tag, attribute)
    (policy,) = read.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy[1]["content"]
    (style,), (script,) = read.texts("style"), read.texts("script")
    assert not re.search(r"url\(|@import", style)
    assert not re.search(r"fetch|XMLHttpRequest|import\(|https?:", script)


def test_ids_are_unique_and_links_lead_somewhere(variant):
    read = Page(variant)
    ids = [attributes["id"] for _, attributes, _ in read.all() if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not any(re.search(r"\s", name) for name in ids)
    wanted = [attributes["href"][1:] for _, attributes, _ in read.all("a", "use")]
    for _, attributes, _ in read.all():
        wanted += [attributes[name] for name in ("data-figure",) if name in attributes]
        wanted += attributes.get("aria-labelledby", "").split()
    assert set(wanted) <= set(ids)


def test_headings_are_in_order(variant):
    levels = [int(tag[1]) for tag, _, _ in Page(variant).all("h1", "h2", "h3", "h4", "h5", "h6")]
    assert (levels[0], levels.count(1)) == (1, 1)
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_everything_has_a_name(variant):
    read = Page(variant)
    assert all(len(attributes["alt"]) > 20 for _, attributes, _ in read.all("img"))
    for _, attributes, _ in read.all("svg"):
        assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])
    assert [text.split()[0] for text in read.texts("label")] == ["Search", "Verdict", "Kind"]
    assert all(read.texts("button", "summary", "th", "a", "h2", "h3"))
    for _, attributes, _ in read.all(role="region"):
        assert attributes["aria-label"]
        assert attributes["tabindex"] == "0"  # what scrolls must be reached by keyboard
    assert {tag for tag, _, _ in read.all("header", "nav", "main", "footer")} == {"header", "nav", "main", "footer"}
    (skip,) = read.all("a", **{"class": "skip"})
    assert skip[1]["href"] == "#main"


def test_names_are_escaped(results, claim, files):
    name, model = "<b>x", '"><script>alert(1)</script>'
    claims = [
        claim("X<1", sentence="1 < 2 & 3.", conditions=["outside/<u>"]),
        claim("X 2", kind="control", conditions=["outside/<u>"]),
    ]
    changes = {
        "dataset": results["dataset"] | {"name": name, "why": "<i>asked"},
        "models": results["models"] | {"vae": model},
        "command": f"pytest claims --vae '{model}'",
        "threats": results["threats"] | {"outside/<u>": "<s>none"},
    }
    text = page.render(results | changes | {"claims": claims}, files)
    assert not re.search(r"<b>x|<i>asked|<u>|<s>", text)
    assert text.count("<script>") == 1
    read = Page(text)
    assert read.texts("h1") == ["Claims on <b>x"]
    assert read.texts("h4") == ["X<1 1 < 2 & 3.", "X 2 A sentence of X 2."]


# What it says


def test_each_claim_says_everything(results, read):
    for one in results["claims"]:
        (claim,) = read().all("details", id=f"claim-{one['claim']}")
        _, attributes, text = claim
        assert (attributes["data-verdict"], attributes["data-kind"]) == (one["verdict"], one["kind"])
        for key in ("sentence", "source", "estimand", "message", "bound"):
            assert one[key] in text
        assert f"{one['runs']} run" in text
        assert f" {one['images']} image" in text
        seeds = results["seeds"] if len(one["per_run"]) == 2 else None
        for number, value in enumerate(one["per_run"]):
            run = f"seed {seeds[number]}" if seeds else f"run {number + 1}"
            assert f"{run} {forest.number(value)}" in text
        for condition in one["conditions"]:
            assert f"{condition} {results['threats'][condition]}" in text
        assert "no effect: none is registered for these data" in text
        assert f"level {one['level']:.4f}" in text


def test_a_registered_bound_and_its_pilot_are_shown(claim, read):
    registered = claim("A1", registered="2026-11-22", pilot="0.885 (sd 0.006, 3 runs)")
    reported = claim("A2", verdict="reported", reported="no bound fits", bound="none", bound_low=None)
    texts = read(claims=[registered, reported]).texts("details", **{"data-kind": "finding"})
    assert "> 0.60, registered 2026-11-22" in texts[0]
    assert "0.885 (sd 0.006, 3 runs)" in texts[0]
    assert "none: no bound fits" in texts[1]


def test_the_overview_counts_verdicts(claim, read):
    overview = read(claims=[claim("A1"), claim("A2"), claim("B1", verdict="refuted"), claim("B2", kind="limit")])
    tiles = [text for _, attributes, text in overview.all("li") if attributes.get("class", "").startswith("tile")]
    assert tiles == ["3 supported", "1 refuted", "0 inconclusive"]
    (matrix,) = overview.texts("table", **{"class": "matrix"})
    assert re.search(r"A\. Consistency of labels over the reconstructions 2 \S B\. .* confidence 1 1$", matrix)
    sentences = [text for _, attributes, text in overview.all("a") if attributes["href"].startswith("#claim-")]
    assert sentences[:3] == [f"{name} A sentence of {name}." for name in ("A1", "A2", "B1")]


def test_an_own_family_goes_by_its_letters_or_its_title(results, claim, read):
    claims = [claim(name) for name in ("A1", "X1", "X2b", "OWN3", "Y")]
    own = read(claims=claims, families=results["families"] | {"OWN": "Of my own"})
    titles = [text for _, attributes, text in own.all("h3") if attributes.get("id", "").startswith("family-")]
    assert titles == ["A. Consistency of labels over the reconstructions", "X", "OWN. Of my own", "Y"]


def test_beside_a_claim_stand_its_controls(claim, read):
    claims = [
        claim("A1", conditions=["clean", "fgsm-0.2"]),
        claim("A2", conditions=["clean", "fgsm-0.2"]),
        claim("A3", conditions=["fgsm-0.2", "sign-0.2"], kind="control"),
        claim("A4", conditions=["clean", "lbfgs"], kind="limit"),  # shares what all claims share, which tells nothing
        claim("A5", conditions=["clean"]),
        claim("B1", conditions=["fgsm-0.2"], kind="baseline"),
    ]
    beside = [
        re.findall(r"A sentence of (\w+)", text) for text in read(claims=claims).texts("ul", **{"class": "beside"})
    ]
    assert beside == [["A3"], ["A3"], [], [], ["A4"], []]


def test_figures_stand_with_their_claims_and_captions(results, read, files):
    whole = read()
    assert [attributes["id"] for _, attributes, _ in whole.all("figure")] == [f"figure-{name}" for name in FIGURES]
    for number, (name, said) in enumerate(zip(FIGURES, whole.texts("figcaption"), strict=True), 1):
        assert said == f"Figure {number}. {caption(results, name)}"
    text = page.render(results, files)
    assert "larger" not in text
    assert text.count("data:image/png;base64,") == len(FIGURES)
    beside = [attributes["data-figure"] for _, attributes, _ in whole.all("details", **{"class": "here"})]
    of_a = ["figure-distinct-labels", "figure-contact-sheet"]
    of_a2 = ["figure-distinct-labels", "figure-consistency-by-size", "figure-contact-sheet"]
    assert beside == [*of_a, *of_a2, *of_a, "figure-error-by-confidence"]
    some = Page(page.render(results, {"convergence.svg": b"<svg/>"}))
    assert [attributes["src"] for _, attributes, _ in some.all("img")] == ["data:image/svg+xml;base64,PHN2Zy8+"]


def test_without_conditions_there_is_no_table_of_them(claim, read):
    """As on the page of a user's own claims, which may look at images of their own alone."""
    alone = read(claims=[claim("X1", conditions=[])], conditions={}, threats={})
    assert (alone.all("section", id="threats"), alone.all("a", href="#threats")) == ([], [])
    named = read(claims=[claim("X1")], conditions={}, threats={"clean": "No attacker."})
    (section,) = named.texts("section", id="threats")
    assert section.endswith("cleanNo attacker. in the claims and figures alone")


def test_provenance_says_how_to_make_it_again(results, read):
    assert read().texts("pre") == [results["command"]]
    (provenance,) = read().texts("section", id="provenance")
    assert f"vaecore {results['version']}, source digest {results['source_digest']}, git revision " in provenance
    older = {key: value for key, value in results.items() if key not in ("version", "source_digest")}
    assert "Codegit revision" in Page(page.render(older, {})).texts("section", id="provenance")[0]
    for digest in (results["registry_digest"], *(one["vae"] for one in results["models"]["digests"])):
        assert digest in provenance
    for name, number in results["environment"]["packages"].items():
        assert f"{name} {number}" in provenance


# Colours


def colours(scheme):
    """The colours of the page in light or in dark."""
    text = package_files("vaecore.suite.report").joinpath("templates/page.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL)[:2]
    )
    return light if scheme == "light" else light | dark


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
    colour = colours(scheme)
    inks = ("ink", "soft", "supported", "refuted", "inconclusive", "pilot")
    grounds = {"supports": inks} | dict.fromkeys(("ground", "raised"), (*inks, "link", "reported", "focus"))
    for ground, written in grounds.items():
        for ink in written:
            assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground)


def test_every_verdict_has_a_shape(results):
    shapes = dict(re.findall(r'<symbol id="mark-([\w-]+)"[^>]*>(.*?)</symbol>', page.render(results, {})))
    assert set(shapes) == {verdict.replace(" ", "-") for verdict in page.VERDICTS}
    assert len({*shapes.values()}) == len(page.VERDICTS)


# The command


def test_the_page_is_drawn_again_from_a_folder(results, files, tmp_path, capsys):
    (tmp_path / "results.json").write_bytes(to_json(results))
    for name, content in {**files, ".index.html.a1b2.tmp": b"left by a process that was killed"}.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (0, 0))
    assert main(["page", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {*files, "index.html", "results.json"}
    assert capsys.readouterr().out == f"{tmp_path / 'index.html'}\n"
    assert (tmp_path / "index.html").read_text() == page.render(results, files)


def test_a_page_that_cannot_be_written_is_an_error_in_a_line(results, tmp_path, capsys):
    (tmp_path / "results.json").write_bytes(to_json(results))
    (tmp_path / "index.html").mkdir()
    with pytest.raises(SystemExit):
        main(["page", str(tmp_path)])
    assert "error: [Errno" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "index.html"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 2}', f"must have schema {SCHEMA}; got 2 (written by another version"),
        (f'{{"schema": {SCHEMA}}}', "must be what `pytest claims` wrote; made is missing"),
    ],
)
def test_results_of_another_version_and_damaged_ones_are_an_error(tmp_path, capsys, content, message):
    """Other folders without fit results are refused as in `compare`."""
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["page", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "index.html").exists()
