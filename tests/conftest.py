"""In tests every warning is an error; claims and benchmarks run other people's models, which may warn."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            # PyTorch itself uses torch.jit where it compiles; and tests of bfloat16 may run where it is slow.
            for rule in ("ignore:.*torch.jit", "ignore:precision 'bfloat16' is slower", "error"):
                item.add_marker(pytest.mark.filterwarnings(rule), append=False)
