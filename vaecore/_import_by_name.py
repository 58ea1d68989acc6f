"""What a user names as `package.module:attribute`."""

import importlib
import os
import re
import sys
from operator import attrgetter
from typing import Any


def is_named(text: str) -> bool:
    """Whether a text has the form `package.module:attribute`."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", text) is not None


def attribute(text: str, what: str) -> Any:
    """Import what `package.module:attribute` names; the working folder is looked in, too.

    what: asked for it, for the ValueError that is raised where there is no such thing or its module can't be imported.
    """
    module, _, name = text.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109  # a user's module lies beside the command, as for `python -m`
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        return attrgetter(name)(importlib.import_module(module))
    except Exception as error:
        cause = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{what} must be package.module:attribute; {text} can't be imported: {cause}{error}"
        ) from error
