"""Which tests ask for a study, the property of their reports that holds a verdict, and errors of usage."""

import pytest

from vaecore.suite.text import printable

VERDICT = "claim verdict"  # property of a test report, as JSON, by which verdicts travel from xdist's workers
_FIXTURES = f"{__package__}.options"  # the module that defines the fixtures


def asks_for_study(item: pytest.Item) -> bool:
    """Whether a test uses the fixtures `study` or `claim` of this package; another project may have its own."""
    info = getattr(item, "_fixtureinfo", None)  # the only way to tell whose fixture a name stands for
    definitions = {} if info is None else info.name2fixturedefs
    return any(
        definitions[name][-1].func.__module__ == _FIXTURES for name in ("study", "claim") if definitions.get(name)
    )


def usage_error(text: object) -> pytest.UsageError:
    """What ends a run before anything is computed, in one line of which nothing acts on a terminal."""
    return pytest.UsageError(printable(str(text)))
