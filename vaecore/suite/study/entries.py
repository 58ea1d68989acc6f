"""What the cache holds: of which study, how old, and whether the code that is installed can use it."""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from vaecore.suite.study.sources import digest_of, look_again, sources_of_module
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Entry

UNKNOWN = "unknown"  # the study of an entry that does not say it
_OURS = __name__.partition(".")[0]


def code_of(task: Task) -> dict[str, str]:
    """The digest of the code that a task and its inputs' tasks run, by module of this package."""
    modules, edits = {one.function.__module__ for one in _lineage(task)}, look_again()
    return {name: _digest(name, edits) for name in sorted(modules) if name.partition(".")[0] == _OURS}


def study_of(entry: Entry) -> str:
    """The study that computed an entry; UNKNOWN where it does not say."""
    return (entry.notes or {}).get("study") or UNKNOWN


def is_stale(entry: Entry) -> bool:
    """Whether no run of the code that is installed here can use an entry.

    It is damaged, or made by other code of this package or with other versions of libraries. False where the entry does
    not say what made it; a user's own modules are not looked at, as another project may have theirs.
    """
    if entry.notes is None:
        return True
    try:
        made_by = dict(json.loads(entry.notes.get("code", "{}")))
    except ValueError:
        return False
    edits = look_again()
    return any(_digest(name, edits) != digest for name, digest in made_by.items())


def _lineage(task: Task) -> Iterator[Task]:
    """A task, and all tasks that its inputs come from, once each."""
    left: list[Any] = [task]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if isinstance(one, tuple):
            left += one
        elif isinstance(one, Task) and id(one) not in seen:
            seen.add(id(one))
            left += one.inputs.values()
            yield one


@lru_cache(maxsize=256)
def _digest(module: str, _edits: int) -> str:
    return digest_of(sources_of_module(module))
