"""Are numbers said with their nouns, and is nothing shown on which a terminal acts?"""

from dataclasses import dataclass

import pytest

from vaecore.suite.text import counted, each_text, printable, visible


def test_a_number_has_its_noun():
    assert [counted(number, "run") for number in (0, 1, 2, 2000)] == ["0 runs", "1 run", "2 runs", "2,000 runs"]
    assert counted(2000, "run", "d") == "2000 runs"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b2J", r"\x9b2J"),  # the same as ESC [
        ("a\r\n\tb\x7f", r"a\r\n\tb\x7f"),
        ("a\u202eb\u200b", r"a\u202eb\u200b"),  # turns the direction of writing; has no width
        ("a\udcffb", r"a\udcffb"),  # a byte of a file's name that is no UTF-8, which can't be written
        ("\u732b\u3000\u00e9\u00a0\\x1b", "\u732b\u3000\u00e9\u00a0\\x1b"),
    ],
)
def test_what_a_terminal_would_act_upon_is_written_out(text, shown):
    assert printable(text) == shown
    assert shown.isprintable() or printable(shown) == shown
    shown.encode()


@dataclass(frozen=True)
class Pair:
    name: str
    parts: tuple[object, ...] = ()


def test_plain_values_are_changed_in_every_text_and_nothing_else():
    value = {"a\x1b": ["\x1b\n\x1b", 1, None, 0.5, True], 2: Pair("\x1b", (Pair("\x07"), "\x1b"))}
    shown = {"a\\x1b": ["\\x1b\n\\x1b", 1, None, 0.5, True], 2: Pair("\\x1b", (Pair("\\x07"), "\\x1b"))}
    assert visible(value) == shown
    assert each_text(value, str) == value
