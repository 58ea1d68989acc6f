"""What a family of claims looks at: a kind of evidence under a condition, computed by tasks, read as a table."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Tensors


class Evidence(ABC):
    """A kind of evidence. Families are alike in this: their files hold conditions, tasks and columns."""

    def tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """The tasks that compute it, run after run, each run's images in order; made once."""
        key = type(self).__name__, condition
        if key not in setup.evidence:
            setup.evidence[key] = self.make_tasks(setup, condition)
        return setup.evidence[key]

    def count(self, setup: Setup, condition: Condition) -> int:
        """Test images that this evidence takes of a condition: as many as the condition says."""
        return setup.count(condition)

    @abstractmethod
    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """See `tasks`."""

    @abstractmethod
    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:
        """Columns (runs, images, ...) of the tasks' results."""
