"""A user's project with one file of tests."""

import pytest
import torchvision  # noqa: F401  # as torch._dynamo in the conftest of the suite: what it imports aborts the second time

import vaecore.suite.plugin.session  # noqa: F401  # imported anew within each run it would take a second

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
