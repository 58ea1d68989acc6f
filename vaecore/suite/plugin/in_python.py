"""The claims judged on a study that was made in Python: a run of pytest in this process, which prints nothing."""

import io
import os
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pytest

from vaecore.suite.judging.findings import FOLDER
from vaecore.suite.judging.verdict import no_verdict
from vaecore.suite.plugin.items import VERDICT, usage_error
from vaecore.suite.plugin.options import begin
from vaecore.suite.plugin.registered import claim_id
from vaecore.suite.plugin.session import ClaimsSession
from vaecore.suite.report import tables
from vaecore.suite.study.study import Study
from vaecore.suite.text import as_keywords
from vaecore.suite.tidy import Tidy

# Neither settings nor plugins of a project, nor what would take over this process's output, signals and files.
_ALONE = (
    *("-c", os.devnull, "--noconftest", "--import-mode=importlib", "--capture=no"),
    *("-p", "vaecore.suite.plugin.options", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:debugging"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)


class _Session(ClaimsSession):
    """Judges claims, all or some by their ids, on a study that is given."""

    def __init__(self, config: pytest.Config, study: Study, ids: Sequence[str], report_dir: Path | None) -> None:
        super().__init__(config)
        self._study, self._ids, self._report_dir = study, set(ids), report_dir
        self.tests: dict[str, str] = {}  # the claim of each test, by the test's id
        self.errors: dict[str, str] = {}  # by claim, what its test raised

    @cached_property
    def study(self) -> Study:
        """The study that is given."""
        return self._study

    def report_folder(self, concluded: Any) -> Path | None:  # noqa: ARG002
        """The report's folder, if one is asked for."""
        return None if self._report_dir is None else self._report_dir / self.study.facts.dataset

    def check(self, items: Sequence[pytest.Item]) -> None:
        """Leave out the claims that are not asked for."""
        assert isinstance(items, list)
        super().check(items)
        self.tests = {item.nodeid: name for item in items if (name := claim_id(item)) is not None}
        if unknown := sorted(self._ids - set(self.registry.claims)):
            raise usage_error(
                f"ids must be registered; got {', '.join(unknown)} (registered: {', '.join(self.registry.claims)})"
            )
        items[:] = [item for item in items if not self._ids or self.tests.get(item.nodeid) in self._ids]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what is no verdict, too."""
        super().pytest_runtest_logreport(report)
        if report.failed and all(name != VERDICT for name, _ in report.user_properties):
            crash = getattr(report.longrepr, "reprcrash", None)
            self.errors[self.tests[report.nodeid]] = str(report.longrepr if crash is None else crash.message)

    def rows(self) -> dict[str, Any]:
        """Results on the claims that were asked for."""
        unasked = self.results or {"claims": [], "not_concluded": no_verdict(self.registry, self.study.lacks, ())}
        reasons = unasked["not_concluded"] | self.errors
        asked = {name: as_keywords(why) for name, why in reasons.items() if not self._ids or name in self._ids}
        return {"claims": unasked["claims"], "not_concluded": asked}


class _Starter:
    """Gives pytest the session."""

    def __init__(self, study: Study, ids: Sequence[str], report_dir: Path | None) -> None:
        self._given = study, ids, report_dir
        self.session: _Session | None = None

    def pytest_configure(self, config: pytest.Config) -> None:
        """Have the claims judged on the study."""
        self.session = _Session(config, *self._given)
        begin(config, self.session)


def claims(study: Study, ids: Sequence[str], report_dir: str | PathLike[str] | None) -> Tidy:
    """See `Study.claims`."""
    starter = _Starter(study, ids, None if report_dir is None else Path(report_dir))
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        status = pytest.main([str(FOLDER), f"--rootdir={FOLDER}", *_ALONE], plugins=[starter])
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR) or starter.session is None:
        _, _, error = output.getvalue().rpartition("ERROR: ")
        raise ValueError(error.strip())
    return tables.claims(starter.session.rows())
