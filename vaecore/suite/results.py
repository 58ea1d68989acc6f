"""What `results.json` holds, as every reader and writer of it sees it: plain values under one schema number."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = 3  # 3: facts, titles and threat models of conditions, so that nothing but results is needed to draw them
FILE = "results.json"


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become None, and tuples become lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(results: Mapping[str, Any]) -> bytes:
    """Results as the content of the file."""
    return (json.dumps(plain(results), indent=1, allow_nan=False) + "\n").encode()


def number(value: float | None) -> float:
    """A number of results, which JSON may have turned into null, as it does NaN."""
    return math.nan if value is None else float(value)


def load(path: Path, *, oldest: int = SCHEMA) -> dict[str, Any]:
    """Read the results that a report's folder, or the file in it, holds; oldest: the first schema that will do.

    Raises ValueError where there are none, or where they are not results of this version.
    """
    file = path / FILE if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} must be a {FILE} or the folder of a report; there is no {file}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} must be what `pytest claims` wrote; it can't be read: {error}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if not (isinstance(schema, int) and oldest <= schema <= SCHEMA):
        raise ValueError(
            f"{file} must have schema {SCHEMA}; got {schema} (written by another version: run `pytest claims` again,"
            " which takes what it can from the cache)"
        )
    return dict(found)
