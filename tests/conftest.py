"""In tests every warning is an error; claims and benchmarks run other people's models, which may warn."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for rule in ("ignore:.*torch.jit", "error"):  # which PyTorch itself uses where it compiles
                item.add_marker(pytest.mark.filterwarnings(rule), append=False)
