"""Data frames, where pandas is installed."""

from collections.abc import Mapping
from typing import Any


def frame(columns: Mapping[str, Any]) -> Any:
    """A `pandas.DataFrame` of columns of one length; raises ImportError where pandas is not installed."""
    try:
        import pandas as pd  # noqa: PLC0415  # optional, and slow to import
    except ImportError as error:
        raise ImportError("to_frame needs pandas (python -m pip install pandas)") from error
    return pd.DataFrame(dict(columns))
