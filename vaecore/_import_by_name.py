"""Import of objects that a user names as `package.module:attribute`."""

import importlib.util
import os
import re
import sys
from operator import attrgetter
from typing import Any


def is_named(text: str) -> bool:
    """Whether a text has the form `package.module:attribute`."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", text) is not None


def attribute(text: str, what: str) -> Any:
    """Import an object by its name `package.module:attribute`; modules in the working folder are found, too.

    what: the argument that holds the name, for the ValueError if the import fails.
    """
    module, _, name = text.partition(":")
    _look_in_working_folder()
    try:
        return attrgetter(name)(importlib.import_module(module))
    except Exception as error:
        cause = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{what} must be package.module:attribute; {text} can't be imported: {cause}{error}"
        ) from error


def check_findable(text: str, what: str) -> None:
    """Raise the same ValueError where not even the package of `package.module:attribute` is there; imports nothing."""
    package = re.split(r"[.:]", text)[0]
    _look_in_working_folder()
    if package not in sys.modules and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{what} must be package.module:attribute; {text} can't be imported: No module named {package!r}"
        )


def _look_in_working_folder() -> None:
    if os.getcwd() not in sys.path:  # noqa: PTH109  # as `python -m` does
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
