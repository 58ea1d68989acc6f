"""A run of the claims in pytest: the study, the plan, the verdicts, the report. `plugin/options.py` starts it."""

import json
from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from vaecore import Store, keep_freed_memory
from vaecore.suite.budget import usual_budget
from vaecore.suite.judging.bounds import Bounds, read_bounds
from vaecore.suite.judging.findings import FAMILY, REGISTRY
from vaecore.suite.judging.pilot import check_new, write_bounds
from vaecore.suite.judging.registry import Registry, load_registry
from vaecore.suite.judging.verdict import Verdict, not_run, tally
from vaecore.suite.plugin import planning, reporting
from vaecore.suite.plugin.conclusion import PASSED, REGISTRY_PROPERTY, Conclusion
from vaecore.suite.plugin.figure_tasks import drawn
from vaecore.suite.plugin.items import VERDICT, asks_for_study, usage_error
from vaecore.suite.plugin.registered import claim_id, registries_of
from vaecore.suite.plugin.request import Request, request_of
from vaecore.suite.report import page, terminal, writing
from vaecore.suite.study import collect
from vaecore.suite.study.computing import executor_of
from vaecore.suite.study.executors import Executor
from vaecore.suite.study.plan import Work, WorkerDiedError
from vaecore.suite.study.progress import bars, lines
from vaecore.suite.study.protocol import PROFILES, Protocol, protocol_of
from vaecore.suite.study.setup import Dataset, Setup, choose_dataset, device_of
from vaecore.suite.study.study import Study, TooFewError
from vaecore.suite.study.tasks import Task
from vaecore.suite.text import printable, visible

NOT_ALL_SUPPORTED = 8  # exit status: the run is whole, and not every claim is supported
_UNFINISHED = pytest.StashKey["Conclusion"]()
_DATASET = "claims dataset"


@dataclass(frozen=True)
class Planned:
    """Tasks of a run: those of its preconditions, of its claims, and others that its report needs.

    conditions: full names of those that claims look at. mistakes: in tests that can't be planned, by test.
    """

    preconditions: list[Task]
    claims: list[Task]
    report: list[Task]
    conditions: set[str]
    mistakes: dict[str, str]


class ClaimsSession:
    """The study of a pytest process, and the verdicts so far.

    With pytest-xdist the workers conclude and the controller reports: verdicts travel in the test reports.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.pilot: bool = config.getoption("--pilot")
        self.verdicts: dict[str, Verdict] = {}
        self.results: dict[str, Any] = {}  # of the whole run, at its end
        self.broken = False  # something failed that is not a verdict
        self.announced = False
        self.interrupted = False
        self.endings: list[str] = []
        self.report_tasks: list[Task] = []
        self.registries: set[Path] = set()

    # The study.

    @cached_property
    def study(self) -> Study:
        """The study that the options ask for, made when first asked for; raises pytest.UsageError for bad options."""
        option, asked = self.config.getoption, self.request
        try:
            device = device_of(option("--device"), cluster=option("--cluster") is not None)
            setup = Setup(
                self.dataset,
                protocol_of(self.dataset.test, asked.profile, asked.draws, asked.budget),
                device=device,
                vae=option("--vae"),
                classifier=option("--classifier"),
                first_seed=asked.first_seed,
                precision=option("--precision"),
                ood=tuple(option("--ood")),
            )
            store = Store(asked.cache, shared=option("--shared-cache"))
            study = Study.of(setup, store, self._executor(device), self.meter)
            setup.check()
            _ = study.facts
            keep_freed_memory()
        except (ValueError, OSError) as error:
            raise usage_error(error) from None
        return study

    @cached_property
    def request(self) -> Request:
        """What the options ask for."""
        return request_of(self.config)

    def _executor(self, device: torch.device) -> Executor:
        distributed = hasattr(self.config, "workerinput") or self.config.getoption("dist", "no") != "no"
        small = distributed or self.request.profile.name == "smoke"
        option = self.config.getoption
        where = {"cluster": option("--cluster"), "report": option("--cluster-report")}
        executor = executor_of(self.request.workers, device, small=small, **where)
        self.config.add_cleanup(executor.close)
        return executor

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, chosen once: a worker of xdist takes the controller's."""
        root: str | None = self.config.getoption("--data-root")
        chosen = getattr(self.config, "workerinput", {}).get(_DATASET)
        if chosen is not None:
            name, why = chosen
            return Dataset(name, why, root)
        return choose_dataset(self.config.getoption("--dataset"), root)

    @cached_property
    def bounds(self) -> Bounds | None:
        """The bounds in the file that `--bounds` names; None without one, and in a pilot, which writes it.

        Raises pytest.UsageError where the file can't be used, or written.
        """
        name: str | None = self.config.getoption("--bounds")
        if name is None:
            return None
        try:
            if self.pilot:
                check_new(Path(name), self.study.facts)
                return None
            return read_bounds(Path(name), self.study.facts)
        except ValueError as error:
            raise usage_error(error) from None

    @cached_property
    def registry(self) -> Registry:
        """The claims of the registries beside what was collected, as they stand for the study's data set."""
        facts = self.study.facts
        try:
            common: Any = {"bounds": self.bounds, "error_rate": self.config.getoption("--error-rate")}
            registry = load_registry(facts.dataset, *self.registries, budget=facts.budget, draws=facts.draws, **common)
        except ValueError as error:
            raise usage_error(error) from None
        if self.config.getoption("--bounds") is not None and not any(one.settable for one in registry.claims.values()):
            raise usage_error(
                f"--bounds is for studies that have no bounds; those of {facts.dataset} are registered and stay"
            )
        return registry

    @property
    def own_alone(self) -> bool:
        """Whether no claim of this package was collected, so that its figures and pages have nothing to show."""
        return all(claim.file != REGISTRY for claim in self.registry.claims.values())

    @property
    def ordered(self) -> list[Verdict]:
        """The verdicts so far, in the registry's order."""
        return [self.verdicts[name] for name in self.registry.claims if name in self.verdicts]

    def conclusion(self, item: pytest.Item) -> Conclusion:
        """What the fixture `claim` gives a test."""
        name = claim_id(item)
        if name is None:
            raise usage_error(f'{item.nodeid}: the claim fixture needs the marker claim("ID")')
        item.stash[_UNFINISHED] = conclusion = Conclusion(self.registry.claims[name], self.study, item)
        return conclusion

    def report_folder(self, concluded: Container[str]) -> Path | None:
        """The report's folder; None without `--report-dir`, unless the run is a whole one of the reference study."""
        chosen: str | None = self.config.getoption("--report-dir")
        facts, setup = self.study.facts, self.study.setup
        usual = setup.protocol == Protocol(PROFILES["standard"], usual_budget(setup.test.shape[0]))
        usual &= self.pilot or setup.first_seed == 0
        reference = facts.reference and usual and self.registry.error_rate == FAMILY
        part = self.own_alone or not_run(self.registry, self.study.lacks, concluded)
        if chosen is None and (self.pilot or not reference or part):
            return None
        folder = Path(chosen) if chosen is not None else self.config.rootpath / "reports"
        return folder / (facts.dataset + ("-own" if self.own_alone else "") + ("-pilot" if self.pilot else ""))

    @contextmanager
    def meter(self, title: str) -> Iterator[Callable[[Work], None]]:
        """Show progress, past pytest's capture: a bar on a terminal, lines elsewhere; nothing in a worker of xdist."""
        reporter = self._reporter
        if reporter is None:
            yield lambda _: None
            return
        reporter.ensure_newline()  # it takes lines of its own, not that of pytest's dots
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        suspended = capture.global_and_fixture_disabled() if capture is not None else nullcontext()
        with suspended, bars()(title) if reporter.isatty else lines(title, self._say) as advance:
            yield advance

    @property
    def _reporter(self) -> Any:
        """pytest's terminal reporter; None in a worker of xdist."""
        return self.config.pluginmanager.get_plugin("terminalreporter")

    def _say(self, line: str) -> None:
        self._reporter.write_line(printable(line))
        self._reporter.flush()

    def header(self) -> list[str]:
        """Lines that say what is studied, once."""
        if self.announced:
            return []
        self.announced = True
        lines = terminal.header(self.study.facts, self.registry, str(self.study.plan.store.folder))
        lines += [place] if (place := self.study.plan.executor.place) else []
        return [printable(line) for line in lines]

    # Collection.

    def check_options(self) -> None:
        """Raise pytest.UsageError for bad options."""
        _ = self.study, self.bounds

    def check(self, items: Sequence[pytest.Item]) -> None:
        """Check what was collected against the registry beside each test's file, or else that of this package."""
        self.registries = registries_of(self.config, items)
        for item in items:
            if (name := claim_id(item)) is not None:
                claim = self.registry.claims[name]
                if claim.bound is None and not self.pilot:
                    item.add_marker(pytest.mark.skip(reason=f"{name} is not registered here: {claim.unregistered}"))
                elif why := self.study.lacks(claim):
                    item.add_marker(pytest.mark.skip(reason=printable(f"{name} {why}")))

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> list[str]:
        """Say what is studied, and why, before it starts."""
        return self.header() if any(asks_for_study(item) for item in items) else []

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of xdist which data set was chosen."""
        if "study" in self.__dict__:
            node.workerinput[_DATASET] = (self.dataset.name, self.dataset.why)

    # The run.

    def plan(self, items: Sequence[pytest.Item]) -> Planned:
        """The tasks that a run's claims need, and its report beside these."""
        running = [item for item in items if item.get_closest_marker("skip") is None]
        asked = planning.asked(running, self.study)
        claims, first, report = {name for item in running if (name := claim_id(item)) is not None}, [], []
        if claims:
            first = self.study.precondition_tasks(asked.conditions)
        if claims and not self.own_alone and self.report_folder(claims) is not None:
            report = collect.tasks(self.study)
        elif claims:
            report = collect.summary_tasks(self.study, asked.conditions)
        return Planned(first, asked.tasks, report, asked.conditions, asked.mistakes)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Compute all that the tests need before them, so that no worker idles between these; or show the plan."""
        option = self.config.option
        if session.testsfailed or not session.items:
            return None  # the controller of xdist has no tests: its workers compute
        if self.config.getoption("--plan"):
            if self._reporter is not None:
                style, planned = _style(self._reporter), self.plan(session.items)
                tasks = {task.key: task for task in (*planned.preconditions, *planned.claims, *planned.report)}.values()
                workers = max(1, self.study.facts.workers)
                seconds, costs = self.study.plan.duration(tasks, workers), self.study.plan.costs(tasks)
                shape = {"width": style["width"], "unicode": style["unicode"]}
                self._reporter.write(planning.table(costs, planned.mistakes, workers, seconds, **shape))
            return True
        if not (option.maxfail or hasattr(self.config, "workerinput")):
            with self._worker_died():
                planned = self.plan(session.items)
                self._tell_unmet(planned)
                self.study.plan.compute(planned.claims, "evidence for the claims")
            self.report_tasks = planned.report
        return None

    def _tell_unmet(self, planned: Planned) -> None:
        """Say at once, when there are models, which preconditions are not met: all that follows may be in vain."""
        if planned.preconditions:
            self.study.plan.compute(planned.preconditions, "models and preconditions")
            if self.study.plan.failures or self._reporter is None:
                return  # an error is raised again, and shown, where a claim asks
            for one in (one for one in self.study.preconditions(planned.conditions) if not one.met):
                self._reporter.ensure_newline()
                self._say(f"precondition not met, {one.name}: {one}; undermines {', '.join(sorted(one.undermines))}")

    @contextmanager
    def _worker_died(self) -> Iterator[None]:
        try:
            yield
        except WorkerDiedError as error:
            pytest.exit(printable(str(error)), returncode=pytest.ExitCode.INTERNAL_ERROR)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Turn a claim's test that passed without concluding into an error; stop where a worker died within a test."""
        if call.excinfo is not None and isinstance(call.excinfo.value, WorkerDiedError):
            pytest.exit(printable(str(call.excinfo.value)), returncode=pytest.ExitCode.INTERNAL_ERROR)
        unfinished = item.stash.get(_UNFINISHED, None)
        error = None if call.excinfo is None else call.excinfo.value
        if isinstance(error, TooFewError) and unfinished is not None and unfinished.verdict is None:
            unfinished.give_up(error)
            outcome = yield
            outcome.longrepr = str(error)
            return outcome
        outcome = yield
        if call.when == "call" and outcome.passed and unfinished is not None and unfinished.verdict is None:
            outcome.outcome = "failed"
            outcome.longrepr = (
                f"{item.nodeid}: claim {claim_id(item)} was not concluded; its test must call claim.conclude(estimate)"
            )
        return outcome

    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Tell a verdict from a failure: it stands in the table of claims, and not among pytest's failures."""
        for name, value in report.user_properties:
            if name == VERDICT and report.when == "call" and (word := json.loads(str(value))["verdict"]) not in PASSED:
                return word, word[0].upper(), (word.upper(), {terminal.STYLES[word]: True})
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the verdict of a test that ran, and note failures that are no verdicts."""
        sent = [str(value) for name, value in report.user_properties if name == VERDICT]
        verdicts = [Verdict.from_json(json.loads(text)) for text in sent]
        if report.when == "call":
            self.verdicts |= {verdict.claim: verdict for verdict in verdicts}
            files = {Path(str(value)) for name, value in report.user_properties if name == REGISTRY_PROPERTY}
            if not files <= self.registries:  # in the controller of xdist
                self.registries |= files
                self.__dict__.pop("registry", None)
        judged = report.when == "call" and any(verdict.verdict not in PASSED for verdict in verdicts)
        if report.failed and not judged:
            self.broken = True

    # The end.

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the report, and tell failures that are verdicts from those that are not by the exit status."""
        if hasattr(self.config, "workerinput") or not self.verdicts:  # the controller reports for xdist's workers
            return
        if exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return
        stopped_early = session.shouldfail or session.shouldstop
        if exitstatus == pytest.ExitCode.TESTS_FAILED and not self.broken and not stopped_early:
            session.exitstatus = NOT_ALL_SUPPORTED
        if self.pilot and self.config.getoption("--bounds") is not None:
            file = Path(self.config.getoption("--bounds"))
            if not self._write_bounds(file, whole=exitstatus == pytest.ExitCode.OK):
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        folder = self.report_folder(self.verdicts)
        try:
            with self._worker_died():
                head = reporting.head(self.study, self.registry, self.ordered)
                self._show(head)
                self._report(folder, head)
        except KeyboardInterrupt:
            self.pytest_keyboard_interrupt()
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        except ValueError as error:  # models that can't be attacked; their claims' tests have failed already
            self.endings.append(f"No report was written: {error}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        except OSError as error:
            self.endings.append(
                f"The report could not be written to {folder}: {error} (choose another with --report-dir)"
            )
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _show(self, head: Mapping[str, Any]) -> None:
        """Print the verdicts, before anything is computed for the report alone."""
        reporter = self._reporter
        if reporter is not None:
            reporter.line("")  # after pytest's dots
            reporter.section("claims")
            for line in self.header():
                reporter.line(line)
            style = _style(reporter)
            reporter.write(terminal.verdicts(head, width=style["width"], color=style["color"]))
            reporter.line(tally([verdict.verdict for verdict in self.ordered]))
            reporter.flush()

    def _report(self, folder: Path | None, head: Mapping[str, Any]) -> None:
        """Gather what was measured, and write it to the report's folder, if any."""
        study = self.study
        study.plan.compute(self.report_tasks, "evidence for the report")
        if folder is None or self.own_alone:
            self.results = reporting.partial(study, head, self.ordered)
        else:
            self.results = reporting.whole(study, head)
        if folder is None:
            self.endings.append("No report was written: it takes all claims, on the reference study, or --report-dir.")
            return
        if self.own_alone:
            writing.write_verdicts(folder, self.results)
        else:
            writing.write(folder, self.results, drawn(self.results, study.plan))
        self.endings.append(f"Report: {folder / page.FILE}")

    def _write_bounds(self, file: Path, *, whole: bool) -> bool:
        """Write the bounds that a pilot sets, and say so; False where they were not written."""
        if not whole:
            self.endings.append(f"No bounds were written to {file}: a pilot sets them once, when nothing failed.")
            return False
        try:
            counts = write_bounds(file, self.study.facts, self.registry, self.ordered)
        except (OSError, ValueError) as error:
            self.endings.append(f"No bounds could be written to {file}: {error}")
            return False
        self.endings.append(f"Bounds: {file}, {counts}. Judge by them with --bounds {file} in place of --pilot.")
        return True

    def pytest_keyboard_interrupt(self) -> None:
        """Say that what was finished is kept."""
        self.interrupted = True
        if "study" in self.__dict__:
            kept = self.study.plan.store.folder
            self.endings.append(f"Stopped. What was finished is kept in {kept}; the same command goes on from there.")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was measured, and say where the report is."""
        if self.verdicts:
            if self.results and not self.interrupted:
                names = {visible(name) for verdict in self.ordered for name in verdict.conditions}
                shown = terminal.only(self.results, names)
                terminalreporter.section("what was measured")
                terminalreporter.write(terminal.measured(shown, **_style(terminalreporter)))
            terminalreporter.line(tally([verdict.verdict for verdict in self.ordered]))
        for line in self.endings:
            terminalreporter.line(printable(line))


def _style(reporter: pytest.TerminalReporter) -> dict[str, Any]:
    """Width and colour of pytest's terminal, and whether it shows more than ASCII."""
    writer = reporter._tw  # noqa: SLF001  # the only way to them
    unicode = "utf" in (getattr(writer._file, "encoding", None) or "").lower()  # noqa: SLF001
    return {"width": writer.fullwidth, "color": writer.hasmarkup, "unicode": unicode}
