"""Names of all kinds, through everything that shows results: none runs, none is lost, and the page keeps its form."""

import xml.etree.ElementTree as ET
from functools import cache
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from vaecore.suite.report import compare, page, terminal
from vaecore.suite.report.figures import files as files_module
from vaecore.suite.report.figures.catalogue import FIGURES
from vaecore.suite.report.figures.files import draw
from vaecore.suite.report.markdown import decisions, outside, summary
from vaecore.suite.results import load, to_json
from vaecore.suite.text import each_text, printable

NAMES = {
    "tag": '<img src=x onerror="alert(1)">',
    "comment": "<!-- and what follows",
    "entity": "&lt;b&gt; &#60;",
    "link": "[here](javascript:alert(1)) ![x](y) [z]: http://a",
    "table": "a | b |",
    "emphasis": "**bold** __bold__ ~~gone~~ _so_ *so*",
    "code": "`code` ``` \\",
    "formula": "$\\frac$ $x^2$",
    "template": "{{ results }} {% raw %} {0}",
    "markup of a console": "[red]x[/red] [/] :boom:",
    "terminal": "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "direction": "a\u202eb\u200b\ufeff",
    "bytes that are no UTF-8": "a\udcffb",
    "letters": "\u732b \u00e9",
}
DRAWN_NAME = "sign-0.1"  # a condition that has no part in the figures' own texts


@pytest.fixture(scope="module")
def texts(results):
    """The texts of the results that come from outside: names, and what users and systems say."""
    claims = results["claims"]
    texts = {one[key] for one in claims for key in ("sentence", "estimand", "source", "message")}
    texts |= {results["dataset"]["name"], results["dataset"]["why"], results["models"]["vae"], results["command"]}
    texts |= {*results["families"].values(), *results["not_concluded"].values(), *results["sanity_flags"]}
    texts |= {*next(iter(results["detection"]["cells"].values())), results["environment"]["processor"]}
    texts |= {results["models"]["classifier"], *results["threats"].values(), *results["cleaning"]["attacked"]}
    return texts | {DRAWN_NAME}


@pytest.fixture(scope="module")
def renamed(results, texts, tmp_path_factory):
    """Give a function that adds a name to those texts, in a file, and reads it."""
    folder = tmp_path_factory.mktemp("renamed")

    @cache
    def make(name):
        bounds = {"file": f"bounds{name}.toml", "digest": "0" * 32, "date": f"2026{name}", "notes": [f"note {name}"]}
        changed = each_text(results | {"bounds": bounds}, lambda text: text + name * (text in texts))
        (folder / "results.json").write_bytes(to_json(changed))
        return load(folder)

    return make


def comparison(results):
    other = results | {"precision": "bfloat16", "models": results["models"] | {"vae": f"x {results['models']['vae']}"}}
    return compare.compare(results, other, (results["dataset"]["name"], "B"))


PLAIN = {"width": 2000, "color": False, "unicode": True}
MARKDOWN = {
    "summary": summary.summary,
    "detection": outside.page,
    "decisions": decisions.page,
    "comparison": lambda results: compare.markdown(comparison(results)),
}
TERMINAL = {
    "summary": lambda results: (
        terminal.verdicts(results, width=PLAIN["width"], color=PLAIN["color"]) + terminal.measured(results, **PLAIN)
    ),
    "comparison": lambda results: compare.text(comparison(results), **PLAIN),
}


def kinds(tokens):
    """The form of a page in Markdown: its tokens without their texts, and what it says."""
    form, said = [], []
    for token in tokens:
        if token.type == "text":
            said.append(token.content)
            form += ["text"] if form[-1:] != ["text"] else []
        elif token.children is not None and token.type == "inline":
            inner, words = kinds(token.children)
            form, said = [*form, *inner], [*said, *words]
        else:
            form.append(token.type)
    return form, said


@pytest.mark.parametrize("render", MARKDOWN)
@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_a_name_as_it_stands_and_keeps_its_form(renamed, name, render):
    """By another's parser of Markdown, with raw HTML, tables and what is struck through."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    hostile = renamed(NAMES[name])
    usual, _ = kinds(parser.parse(MARKDOWN[render](renamed(""))))
    form, said = kinds(parser.parse(MARKDOWN[render](hostile)))
    assert form == usual
    assert any(printable(NAMES[name]) in text for text in said)
    assert "html_inline" not in form
    MARKDOWN[render](hostile).encode()


@pytest.mark.parametrize("render", TERMINAL)
@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_shows_a_name_as_it_stands(renamed, name, render):
    text = TERMINAL[render](renamed(NAMES[name]))
    assert all(printable(line) == line for line in text.split("\n"))
    assert printable(NAMES[name]) in text


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, sorted(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_a_name_as_it_stands_and_keeps_its_form(renamed, files, name):
    usual, hostile = (Tags(page.render(renamed(one), files)) for one in ("", NAMES[name]))
    assert hostile.tags == usual.tags
    assert printable(NAMES[name]) in hostile.text
    assert all(printable(line) == line for line in hostile.text.split("\n"))


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        *((name, ["latent-space"]) for name in ("tag", "formula", "terminal", "letters")),
        pytest.param("formula", [*FIGURES], marks=pytest.mark.slow),
    ],
)
def test_figures_are_drawn_whatever_the_names(renamed, name, figures, monkeypatch):
    """A formula that is none would end them, and so would control characters in what an SVG says of itself."""
    monkeypatch.setattr(files_module, "SUFFIXES", ("svg",))  # which has all texts
    hostile = renamed(NAMES[name])
    for figure in figures:
        ET.fromstring(draw(hostile, figure)["svg"])  # noqa: S314  # our own file
