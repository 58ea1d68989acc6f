"""Tests of claims against the registries beside them, before any data are looked at. Imports no torch."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from vaecore.suite.judging.findings import shown
from vaecore.suite.judging.registry import load_registry, registry_of
from vaecore.suite.plugin.items import usage_error


def claim_id(item: pytest.Item) -> str | None:
    """The id in an item's `claim` marker; None without the marker."""
    marker = item.get_closest_marker("claim")
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], str):
        raise usage_error(f'{item.nodeid}: the marker must be claim("ID"); got {marker.args} {marker.kwargs}')
    return marker.args[0]


def registries_of(config: pytest.Config, items: Sequence[pytest.Item]) -> set[Path]:
    """The registries of the claims that tests conclude; an id in `-k` then selects its test.

    Raises pytest.UsageError where a claim is not registered in them, has two tests, or its test another sentence.
    """
    marked = [(item, name) for item in items if (name := claim_id(item)) is not None]
    files = {registry_of(item.path) for item, _ in marked}
    try:
        claims = load_registry("", *files).claims
    except ValueError as error:
        raise usage_error(error) from None
    owner: dict[str, str] = {}
    for item, name in marked:
        claim, file = claims.get(name), registry_of(item.path)
        if claim is None or claim.file != file:
            raise usage_error(f"{item.nodeid}: claim {name} must be registered in {shown(file)}; it is not")
        if name in owner:
            raise usage_error(f"{item.nodeid}: claim {name} is concluded by {owner[name]} already")
        owner[name] = item.nodeid
        item.extra_keyword_matches |= {name, _keyword(name)}
        sentence = _first_paragraph(item)
        if sentence != claim.stated["sentence"]:
            raise usage_error(
                f"{item.nodeid}: the docstring must start with the registered sentence of {name};"
                f" expected {claim.stated['sentence']!r}, got {sentence!r}"
            )
    config.option.keyword = re.sub(
        r"[\w:+\-.\[\]\\/]+",  # a word of an expression of -k
        lambda word: _keyword(word[0]) if word[0] in owner else word[0],
        config.option.keyword,
    )
    return files


def _keyword(claim: str) -> str:
    """What -k selects a claim by, where it is given the claim's id: it takes parts of words, and A1 is one of A10."""
    return f":{claim}:"


def _first_paragraph(item: pytest.Item) -> str:
    text = getattr(getattr(item, "function", None), "__doc__", None) or ""
    return " ".join(text.split("\n\n")[0].split())
