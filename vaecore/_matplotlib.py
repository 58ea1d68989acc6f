"""matplotlib, whatever backend the user's environment names. Imports no torch."""

import contextlib
import importlib
import os
import sys
from types import ModuleType


def import_matplotlib() -> ModuleType:
    """The package matplotlib; it comes before the first import of any of its modules.

    MPLBACKEND may name a backend that is not installed, as below a notebook, and then the import fails. To draw a file
    takes no backend, so the import does not see the name; it is set afterwards, for other code, where it is valid.
    """
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    name = os.environ.pop("MPLBACKEND", None)
    try:
        matplotlib = importlib.import_module("matplotlib")
    finally:
        if name is not None:
            os.environ["MPLBACKEND"] = name
    if name:
        with contextlib.suppress(ValueError):  # else matplotlib chooses, where it would not have been imported
            matplotlib.rcParams["backend"] = name
    return matplotlib
