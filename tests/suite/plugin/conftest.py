"""A user's project with one file of tests."""

import pytest
import torchvision  # noqa: F401  # as torch._dynamo in the conftest of the suite: what it imports aborts the second time

from vaecore.suite.plugin import session
from vaecore.suite.study import setup

HEAD = """
import numpy as np
import pytest
from vaecore.suite import mean
from vaecore.suite.statistics.columns import Column, Origin
"""


@pytest.fixture
def run(project):
    """Give a function that runs pytest in a user's project on one file of tests, with its source and options."""

    def start(text, *options, **settings):
        (project.path / "test_it.py").write_text(HEAD + text, encoding="utf-8")
        return project("test_it.py", *options, **settings)

    start.path = project.path
    return start


@pytest.fixture
def refused(project):
    """Give a function that checks that a run ended with one line about its options before anything was computed."""

    def check(result, message):
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert len(result.errlines) == 2  # the line and the end of it
        result.stderr.fnmatch_lines([f"ERROR: {message}"])
        assert not list((project.path / "cache").glob("*/*.safetensors"))
        assert not (project.path / "reports").exists()

    return check


SMALL = """
from vaecore import ClassifierConfig, VAEConfig
from vaecore.suite.study import setup

small = VAEConfig(latent_size=2, hidden_size=4, epochs=1), ClassifierConfig((2, 2), 4, epochs=1)
setup.reference_configs = lambda _: small
"""


@pytest.fixture
def small(project, monkeypatch):
    """Reference models of a project, and its plain autoencoder, are small and train for one epoch."""
    monkeypatch.setattr(setup, "reference_configs", None)  # so that it is put back
    (project.path / "conftest.py").write_text(SMALL, encoding="utf-8")


@pytest.fixture
def folders(small, monkeypatch):
    """Folders that reports would be written to, in order."""
    written = []
    monkeypatch.setattr(session.collect, "tasks", lambda _: [])
    monkeypatch.setattr(session.reporting, "whole", lambda *_: {"conditions": {}})
    monkeypatch.setattr(session, "drawn", lambda *_: {})
    for part in ("verdicts", "measured"):
        monkeypatch.setattr(session.terminal, part, lambda *_, **__: "")
    for writer in ("write", "write_verdicts"):
        monkeypatch.setattr(session.writing, writer, lambda folder, *_: written.append(folder))
    return written
