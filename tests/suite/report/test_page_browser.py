"""Does the page work in a real browser, on a phone and on a desk, by keyboard, in the dark and on paper?"""

import re
import shutil
from pathlib import Path

import pytest

from vaecore.suite.report import page
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.report.figures.files import draw

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the group `browser`: playwright drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on the PATH (apt-get install chromium)")
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WIDTHS = {"phone": 360, "desk": 1280}
REFERENCE = Path(__file__).parents[3] / "reports" / "mnist"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(results, tmp_path_factory):
    """Give where a page with a real picture of each kind lies, and claims enough to search among."""
    files = draw(results, "convergence")
    pictures = {f"{name}.png": files["png"] for name in [*FIGURES][:2]} | {"convergence.svg": files["svg"]}
    more = [
        one | {"claim": f"E{number}", "sentence": f"Sentence {number} about zebras.", "kind": "limit"}
        for number, one in enumerate(results["claims"])
    ]
    long = {**results["dataset"], "name": "a_name_that_is_far_too_long_to_fit_on_a_phone_" * 2}
    found = results | {"claims": [*results["claims"], *more], "dataset": long}
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(page.render(found, pictures), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def visit(browser, address):
    """Open the page; afterwards nothing may have been asked for but the page, and nothing said on the console."""
    contexts, said, asked = [], [], []

    def visit(width="desk", fragment="", **settings):
        context = browser.new_context(viewport={"width": WIDTHS[width], "height": 800}, **settings)
        contexts.append(context)
        tab = context.new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address + fragment)
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} == {address}


def shown(tab):
    return [claim.get_attribute("id") for claim in tab.locator("details.claim").all() if claim.is_visible()]


OVERFLOWING = """() => {
  const wide = document.documentElement.clientWidth;
  return [...document.body.querySelectorAll("*")].filter((element) => {
    if (element.closest(".scroll, nav ul, pre, .skip, svg")) return false;
    return element.getBoundingClientRect().right > wide + 1;
  }).map((element) => element.outerHTML.slice(0, 90)).concat(
    document.documentElement.scrollWidth > wide ? ["the page scrolls sideways"] : []);
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out(visit, width):
    tab = visit(width)
    assert tab.evaluate(OVERFLOWING) == []
    tab.get_by_role("button", name="Unfold all").click()
    tab.locator("details.here, details.numbers-of").evaluate_all("all => all.forEach((one) => { one.open = true })")
    tab.wait_for_timeout(100)  # for the toggle events
    assert tab.evaluate(OVERFLOWING) == []
    scrolled = tab.locator("#threats .scroll").evaluate("box => box.scrollWidth > box.clientWidth")
    assert scrolled == (width == "phone")  # a wide table scrolls in a box of its own


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_cut_shows_that_it_scrolls(visit, width):
    tab = visit(width)
    fades = "box => getComputedStyle(box).maskImage !== 'none'"
    for name in ("figure .scroll", "#threats .scroll", "nav ul"):
        box = tab.locator(name).first
        cut = box.evaluate("box => box.scrollWidth > box.clientWidth")
        assert cut == (width == "phone"), name
        tab.wait_for_function(f"([box, cut]) => ({fades})(box) === cut", arg=[box.element_handle(), cut])
        box.evaluate("box => { box.scrollLeft = box.scrollWidth }")
        tab.wait_for_function(f"(box) => !({fades})(box)", arg=box.element_handle())
    assert tab.locator("figure .hint").first.is_visible() == (width == "phone")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_axis_of_the_overview_says_what_it_is(visit, width):
    tab = visit(width)
    axis, plot = tab.locator("#overview .axis svg").first, tab.locator("#overview svg.margin.supported").first
    assert axis.locator("text").all_text_contents() == ["half-widths from the bound", "-4", "bound", "+4", "+8"]
    assert axis.is_visible()
    ends = [(box["x"], box["width"]) for box in (axis.bounding_box(), plot.bounding_box())]
    assert ends[0] == pytest.approx(ends[1], abs=1)  # so that its numbers stand over what they measure


@pytest.mark.parametrize("width", WIDTHS)
def test_all_images_have_loaded(visit, width):
    sizes = visit(width).locator("img").evaluate_all("all => all.map((one) => [one.complete, one.naturalWidth])")
    assert len(sizes) == 3
    assert all(complete and natural > 100 for complete, natural in sizes)


def test_search_leaves_what_fits(visit):
    tab = visit()
    every = shown(tab)
    assert len(every) == 8
    tab.get_by_label("Search").fill("ZEBRAS e2")
    assert shown(tab) == ["claim-E2"]
    assert tab.locator("#count").inner_text() == "1 of 8 claims"
    assert not tab.locator("#family-A").is_visible()
    tab.get_by_label("Search").fill("")
    tab.get_by_role("combobox", name="Verdict").select_option("refuted")
    assert shown(tab) == ["claim-A2", "claim-E1"]
    tab.get_by_role("combobox", name="Kind").select_option("limit")
    assert shown(tab) == ["claim-E1"]
    tab.get_by_label("Search").fill("nothing like it")
    assert shown(tab) == []
    tab.get_by_role("button", name="Show all").click()
    assert shown(tab) == every
    assert tab.locator("#count").inner_text() == "8 claims"
    assert not tab.locator("#nothing").is_visible()


def test_claims_fold_by_keyboard(visit):
    tab = visit()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.locator(".skip").bounding_box()["x"] >= 0  # the skip link shows itself
    tab.get_by_role("button", name="Fold all", exact=True).focus()
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.parentElement.id") == "claim-A1"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    body = tab.locator("#claim-A1 .body")
    assert not body.is_visible()
    tab.keyboard.press("Enter")
    assert body.is_visible()
    tab.keyboard.press("Space")
    assert not body.is_visible()
    tab.get_by_role("button", name="Unfold all").press("Enter")
    assert all(tab.locator("details.claim").evaluate_all("all => all.map((one) => one.open)"))
    tab.get_by_role("button", name="Fold all", exact=True).press("Enter")
    assert not any(tab.locator("details.claim").evaluate_all("all => all.map((one) => one.open)"))


def test_links_open_what_they_lead_to(visit):
    tab = visit(fragment="#claim-E3")
    assert tab.locator("#claim-E3 .body").is_visible()
    tab.get_by_label("Search").fill("zebras")
    tab.locator("#overview").get_by_role("link", name="A2 ").click()
    tab.wait_for_function("document.querySelector('#claim-A2').open")
    assert len(shown(tab)) == 8  # the search hid it
    assert tab.evaluate("document.activeElement.parentElement.id") == "claim-A2"


def test_a_figure_is_shown_beside_its_claim(visit):
    tab = visit(fragment="#claim-A1")
    tab.locator("#claim-A1 .here > summary").first.click()
    image = tab.locator("#claim-A1 .here img")
    image.wait_for()
    assert image.evaluate("one => one.complete && one.naturalWidth > 100")
    assert image.get_attribute("alt") == tab.locator("#figure-distinct-labels img").get_attribute("alt")


@pytest.mark.parametrize("width", WIDTHS)
def test_without_scripts_all_can_be_read(visit, width):
    tab = visit(width, java_script_enabled=False)
    assert not tab.locator(".tools").is_visible()
    tab.locator("#claim-A1 > summary").click()
    assert tab.locator("#claim-A1 .body").is_visible()
    assert tab.locator("figure img").first.is_visible()


def test_paper_shows_what_is_folded(visit):
    tab = visit(java_script_enabled=False)
    assert not tab.locator("#claim-A2 .body").is_visible()
    tab.emulate_media(media="print")
    assert tab.locator("#claim-A2 .message").is_visible()
    assert not tab.locator("nav").is_visible()
    dark = visit(color_scheme="dark", fragment="#claim-A1")
    dark.emulate_media(media="print")
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for claim, unfolded in (("A1", True), ("A2", False)):
        assert dark.locator(f"#claim-{claim} .message").is_visible()
        assert dark.locator(f"#claim-{claim} .columns").is_visible() == unfolded


def test_a_whole_report_prints_on_few_pages(browser, tmp_path):
    """The reference run, with more than a hundred claims and all figures."""
    shutil.copytree(REFERENCE, tmp_path / "mnist")
    tab = browser.new_page()
    tab.goto(page.write(tmp_path / "mnist").as_uri())
    assert tab.locator("details.claim").count() > 100
    assert tab.locator("figure").count() > 10
    for paper in ("A4", "Letter"):
        assert len(re.findall(rb"/Type\s*/Page\b", tab.pdf(format=paper))) <= 25
    tab.close()


def test_motion_is_only_for_those_who_want_it(visit):
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    assert visit(reduced_motion="reduce").evaluate(behaviour) == "auto"
    assert visit(reduced_motion="no-preference").evaluate(behaviour) == "smooth"


CONTRAST = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => [red, green, blue].map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, k) => sum + part * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const inSvg = element.namespaceURI.endsWith("svg");
    const shades = [light(numbers(inSvg ? style.fill : style.color)), light(ground(element))].sort((a, b) => b - a);
    found.push([(shades[0] + 0.05) / (shades[1] + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(visit, scheme):
    tab = visit(color_scheme=scheme)
    tab.get_by_role("button", name="Unfold all").click()
    found = tab.evaluate(CONTRAST)
    assert len(found) > 200
    assert [text for ratio, text in found if not ratio >= 4.5] == []
    grey = sum(map(int, tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")))
    assert grey < 120 if scheme == "dark" else grey > 700
    panel = tab.locator("figure img").first.evaluate("one => getComputedStyle(one).backgroundColor")
    assert panel == "rgb(255, 255, 255)"  # figures are made for a light ground


def test_readers_of_the_screen_find_names(visit):
    tab = visit()
    tab.get_by_role("button", name="Unfold all").click()
    for role in ("banner", "navigation", "main", "contentinfo", "search"):
        assert tab.get_by_role(role).count() == 1, role
    for role, name in (("searchbox", "Search"), ("combobox", "Verdict"), ("combobox", "Kind")):
        assert tab.get_by_role(role, name=name).count() == 1, name
    plots = tab.get_by_role("img").evaluate_all(
        "all => all.map((one) => one.getAttribute('aria-label') || one.getAttribute('alt'))"
    )
    assert all(plots)
    assert any(text.startswith("A1: estimate 1.000, interval") for text in plots)
    assert tab.get_by_role("heading", level=1).count() == 1
    assert tab.get_by_role("table").count() >= 4
