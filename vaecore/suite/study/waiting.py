"""Tasks that wait for what they need, and in which order they start."""

import heapq
from collections.abc import Mapping

from vaecore.suite.study.tasks import Task


class Waiting:
    """Gives out tasks in their order, each once all that it needs is done."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        """tasks: by key, in the order in which they should start."""
        self._tasks = list(tasks.values())
        self._places = {key: place for place, key in enumerate(tasks)}
        self._unmet = [0] * len(tasks)
        self._after: list[list[int]] = [[] for _ in tasks]
        for place, task in enumerate(self._tasks):
            for need in task.needs:
                if need.key in self._places:
                    self._unmet[place] += 1
                    self._after[self._places[need.key]].append(place)
        self._ready = [place for place, unmet in enumerate(self._unmet) if not unmet]  # sorted, so a heap
        self._put_off: list[int] = []
        self.left = len(tasks)  # tasks that were not given out, or came back

    def next(self) -> Task | None:
        """The first task that can start; None where none can yet."""
        if not self._ready:
            return None
        self.left -= 1
        return self._tasks[heapq.heappop(self._ready)]

    def again(self, task: Task) -> None:
        """Take a task back, to be given out as before."""
        self.left += 1
        heapq.heappush(self._ready, self._places[task.key])

    def put_off(self, task: Task) -> None:
        """Take a task back, to be given out after `look_again`."""
        self.left += 1
        self._put_off.append(self._places[task.key])

    def look_again(self) -> None:
        """Give out what was put off."""
        for place in self._put_off:
            heapq.heappush(self._ready, place)
        self._put_off.clear()

    def done(self, task: Task) -> None:
        """Let those start that needed this one."""
        for place in self._after[self._places[task.key]]:
            self._unmet[place] -= 1
            if not self._unmet[place]:
                heapq.heappush(self._ready, place)
