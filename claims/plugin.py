"""The pytest plugin: options, the `claim` marker, the fixtures `study` and `claim`, verdicts, the closing summary."""

import os
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import pytest
import rich.progress
import torch
from platformdirs import user_cache_path
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from claims import page, report, sanity, terminal
from claims.evidence import CONDITIONS
from claims.inference import Estimate
from claims.registry import REGISTRY, Claim, Registry, load_registry
from claims.study import PILOT_SEED, PROFILES, Dataset, Study, choose_dataset, profile_of
from claims.verdict import PILOT, REPORTED, SUPPORTED, Verdict, judge, not_run
from claims.workers import MOST, default_workers
from vaecore._outside import OUTSIDE_LOADED
from vaecore._precision import Precision
from vaecore._store import Store
from vaecore._training import Progress, default_device

NOT_ALL_SUPPORTED = 8  # exit status: every claim asked for was concluded, and not all of them were supported
SESSION = pytest.StashKey["ClaimsSession"]()
_UNFINISHED = pytest.StashKey["Conclusion"]()
_PROPERTY, _DATASET = "claim verdict", "claims dataset"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `pytest claims` and `pytest bench`."""
    group = parser.getgroup("claims", "claims about VAEs for robustness")
    group.addoption(
        "--dataset",
        default="auto",
        metavar="NAME",
        help="mnist, fashion-mnist, kmnist, emnist-letters, digits, or path/to/file.npz with `images` and `labels`"
        " (default: auto, mnist where it is on disk or can be downloaded, else digits)",
    )
    group.addoption(
        "--data-root",
        default=None,
        metavar="DIR",
        help="folder of torchvision's data sets (default: VAECORE_DATA, else a folder in the user's cache)",
    )
    group.addoption(
        "--profile",
        default="standard",
        choices=sorted(PROFILES),
        help="; ".join(
            f"{p.name}: {p.runs} runs, {p.images} images, {p.lbfgs_images} for L-BFGS" for p in PROFILES.values()
        )
        + " (default: standard)",
    )
    group.addoption("--runs", type=int, default=None, metavar="N", help="training runs (default: the profile's)")
    group.addoption(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)"
    )
    group.addoption(
        "--workers",
        type=int,
        default=None,
        metavar="N",
        help="processes that compute what is not in the cache yet, a gigabyte of memory each; 1: none but this one"
        f" (default: one for each core, at most {MOST}; 1 for --profile smoke, on a GPU and under pytest-xdist)",
    )
    group.addoption(
        "--precision",
        default="float32",
        choices=get_args(Precision),
        help="of the reconstructions that families A, B and E1 to E4 look at; bfloat16 is faster where the processor has"
        " it, tf32 on a GPU (default: float32)",
    )
    for name, methods in (("vae", "encode and decode"), ("classifier", "images to logits")):
        group.addoption(
            f"--{name}",
            default=None,
            metavar="MODEL",
            help=f"your own ({methods}): package.module:attribute, a torch module or a callable seed -> module;"
            " or a file saved by vaecore (default: the reference model)",
        )
    group.addoption(
        "--ood",
        action="append",
        default=[],
        metavar="SET",
        help="a set outside to compare with, beside those at hand; may be repeated: rotated-D (degrees), dimmed-F"
        f" (factor), {', '.join(OUTSIDE_LOADED)}, or path/to/file.npz (those in `ood` of --data-root need no asking)",
    )
    group.addoption(
        "--report-dir",
        default=None,
        metavar="DIR",
        help="write results.json, index.html, summary.md and figures to DIR/<dataset> (default: reports, and only when"
        " all claims were concluded on the reference models with the standard profile)",
    )
    group.addoption(
        "--cache-dir",
        default=None,
        metavar="DIR",
        help="models and evidence are kept here (default: VAECORE_CACHE, else the user's cache folder;"
        " see `python -m claims cache`)",
    )
    group.addoption(
        "--pilot",
        action="store_true",
        help=f"measure instead of judging, on training seeds from {PILOT_SEED} that claims never use; suggests bounds",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, a warning's filter, and the object that gathers verdicts."""
    config.addinivalue_line("markers", "claim(id): the test concludes the claim registered under this id")
    # A damaged entry is worth a warning and never a failure, even where a project turns warnings into errors.
    config.addinivalue_line("filterwarnings", "default::vaecore.StoreWarning")
    session = config.stash[SESSION] = ClaimsSession(config)
    config.pluginmanager.register(session, "claims-session")


def cache_folder(option: str | None) -> Path:
    """The cache folder: the option, else VAECORE_CACHE, else one in the user's cache."""
    return Path(option or os.environ.get("VAECORE_CACHE") or user_cache_path("vaecore")).expanduser()


class ClaimsSession:
    """What one pytest process knows: the study, made when first asked for, and the verdicts so far.

    With pytest-xdist the workers conclude and the controller reports: verdicts travel in the test reports.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.pilot: bool = config.getoption("--pilot")
        self.verdicts: dict[str, Verdict] = {}
        self.broken = False  # something failed that is not a verdict
        self.announced = False
        self.interrupted = False
        self.flags: list[str] = []
        self.ending = ""

    @cached_property
    def study(self) -> Study:
        """The study that the options ask for; raises pytest.UsageError where they ask for what can't be."""
        option = self.config.getoption
        try:
            if option("--report-dir") is not None:
                _check_writable(Path(option("--report-dir")))
            device = _device(option("--device"))
            study = Study(
                self.dataset,
                profile_of(option("--profile"), option("--runs")),
                Store(cache_folder(option("--cache-dir"))),
                root=option("--data-root"),
                device=device,
                precision=option("--precision"),
                workers=self._workers(device),
                vae=option("--vae"),
                classifier=option("--classifier"),
                ood=tuple(option("--ood")),
                first_seed=PILOT_SEED if self.pilot else 0,
                meter=self.meter,
            )
            study.check()
        except (ValueError, OSError) as error:
            raise pytest.UsageError(str(error)) from None
        return study

    def _workers(self, device: torch.device) -> int:
        asked: int | None = self.config.getoption("--workers")
        if asked is None:
            small = self.config.getoption("--profile") == "smoke"
            return 1 if small or hasattr(self.config, "workerinput") else default_workers(device)
        if asked < 1:
            raise ValueError(f"--workers must be 1 or more; got {asked}")
        return asked

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, chosen once: a worker of xdist takes the controller's."""
        told = getattr(self.config, "workerinput", {}).get(_DATASET)
        if told is not None:
            return Dataset(*told)
        return choose_dataset(self.config.getoption("--dataset"), self.config.getoption("--data-root"))

    @cached_property
    def registry(self) -> Registry:
        """The claims as they stand for the study's data set."""
        return load_registry(self.study.test.name)

    @property
    def decisive(self) -> bool:
        """Whether the study is large enough to support a claim: no smoke test, and not one run of models that vary."""
        return self.study.profile.name != "smoke" and (len(self.study.seeds) > 1 or self.study.fixed)

    @property
    def ordered(self) -> list[Verdict]:
        """The verdicts so far, in the registry's order."""
        return [self.verdicts[name] for name in self.registry.claims if name in self.verdicts]

    def report_folder(self) -> Path | None:
        """Where the report goes; None where it is not asked for and is not a whole one of the reference study."""
        chosen: str | None = self.config.getoption("--report-dir")
        study = self.study
        reference = study.vae is None and study.classifier is None and study.profile == PROFILES["standard"]
        if chosen is None and (self.pilot or not reference or not_run(self.registry, self.study, self.verdicts)):
            return None
        folder = Path(chosen) if chosen is not None else self.config.rootpath / "reports"
        return folder / (study.test.name + ("-pilot" if self.pilot else ""))

    @contextmanager
    def meter(self, task: str) -> Iterator[Progress]:
        """Show a task's progress on the terminal, past pytest's capture; nothing where output is no terminal."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or not reporter.isatty:
            yield lambda _done, _of: None
            return
        reporter.ensure_newline()  # the bar takes a line of its own, not that of pytest's dots
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        suspended = capture.global_and_fixture_disabled() if capture is not None else nullcontext()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with suspended, rich.progress.Progress(*columns, transient=True) as progress:
            bar = progress.add_task(task, total=None)
            yield lambda done, of: progress.update(bar, completed=done, total=of)

    def header(self) -> list[str]:
        """Lines that say what is studied, once."""
        if self.announced:
            return []
        self.announced = True
        return terminal.header(self.study, self.registry)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Under xdist only the workers collect: find mistakes in the options here, where they can be said in a line."""
        distributed = self.config.getoption("dist", "no") != "no" and not hasattr(self.config, "workerinput")
        rooms = [Path(__file__).parent, Path(__file__).parents[1] / "bench"]
        named = [Path(argument.partition("::")[0]).resolve() for argument in self.config.args]
        if distributed and any(path.is_relative_to(room) for path in named for room in rooms):
            _ = self.study

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker of xdist which data set was chosen."""
        if "study" in self.__dict__:
            node.workerinput[_DATASET] = (self.dataset.name, self.dataset.why)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Check what was collected against the registry."""
        if not _look_at_study(items):
            return
        owner: dict[str, str] = {}
        for item in items:
            name = claim_id(item)
            if name is None:
                continue
            claim = self.registry.claims.get(name)
            if claim is None:
                raise pytest.UsageError(f"{item.nodeid}: claim {name} must be registered in {REGISTRY.name}; it is not")
            if name in owner:
                raise pytest.UsageError(f"{item.nodeid}: claim {name} is concluded by {owner[name]} already")
            owner[name] = item.nodeid
            item.extra_keyword_matches.add(name)  # so that -k takes a claim's id
            sentence = _first_paragraph(item)
            if sentence != claim.sentence:
                raise pytest.UsageError(
                    f"{item.nodeid}: the docstring must start with the registered sentence of {name};"
                    f" expected {claim.sentence!r}, got {sentence!r}"
                )
            if claim.bound is None and not self.pilot:
                item.add_marker(pytest.mark.skip(reason=f"{name} is not registered here: {claim.unregistered}"))
            elif why := self.study.outside.lacks(claim.outside):
                item.add_marker(pytest.mark.skip(reason=f"{name} {why}"))

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> list[str]:
        """Say what is studied, and why, before it starts."""
        return self.header() if _look_at_study(items) else []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Turn a claim's test that passed without concluding into an error."""
        outcome = yield
        unfinished = item.stash.get(_UNFINISHED, None)
        if call.when == "call" and outcome.passed and unfinished is not None and unfinished.verdict is None:
            outcome.outcome = "failed"
            outcome.longrepr = (
                f"{item.nodeid}: claim {claim_id(item)} was not concluded; its test must call claim.conclude(estimate)"
            )
        return outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the verdict of a test that ran, and note failures that are no verdicts."""
        found = [Verdict.from_json(_values(value)) for name, value in report.user_properties if name == _PROPERTY]
        if report.when == "call":
            self.verdicts |= {verdict.claim: verdict for verdict in found}
        judged = report.when == "call" and any(verdict.verdict not in {SUPPORTED, PILOT, REPORTED} for verdict in found)
        if report.failed and not judged:
            self.broken = True

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
        looked_at = {condition for verdict in self.ordered for condition in verdict.conditions}
        folder = self.report_folder()
        try:
            self.flags = sanity.flags(self.study, [name for name in CONDITIONS if name in looked_at])
            if folder is None:
                self.ending = "No report was written: it takes all claims, on the reference study, or --report-dir."
                return
            results = report.gather(self.study, self.registry, self.ordered, pilot=self.pilot)
            report.write(folder, results, self.study)
            self.ending = f"Report: {folder / page.FILE}"
        except KeyboardInterrupt:
            self.pytest_keyboard_interrupt()
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        except ValueError as error:  # models that can't be attacked; their claims' tests have failed already
            self.ending = f"No report was written: {error}"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        except OSError as error:
            self.ending = f"The report could not be written to {folder}: {error} (choose another with --report-dir)"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_keyboard_interrupt(self) -> None:
        """Say what an interruption costs."""
        self.interrupted = True
        if "study" in self.__dict__:
            kept = self.study.store.folder
            self.ending = f"Stopped. What was finished is kept in {kept}; the same command goes on from there."

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the verdicts, and say where the report is."""
        if not self.verdicts:
            if self.ending:
                terminalreporter.line(self.ending)
            return
        writer = terminalreporter._tw  # noqa: SLF001  # the only way to pytest's width and colour
        terminalreporter.section("claims")
        for line in self.header():
            terminalreporter.line(line)
        if not self.interrupted:  # what is shown beside the verdicts may have to be computed first
            unicode = "utf" in (getattr(writer._file, "encoding", None) or "").lower()  # noqa: SLF001
            text = terminal.summary(
                self.study,
                self.registry,
                self.ordered,
                self.flags,
                width=writer.fullwidth,
                color=writer.hasmarkup,
                unicode=unicode,
            )
            terminalreporter.write(text)
        terminalreporter.line(terminal.tally([verdict.verdict for verdict in self.ordered]))
        if self.ending:
            terminalreporter.line(self.ending)


def _device(name: str) -> torch.device:
    """The device of an option; on a GPU, results are to be as exact and as repeatable as on a CPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a CUDA GPU that torch can use; there is none (use --device auto)")
    device = default_device() if name == "auto" else torch.device(name)
    if device.type == "cuda":
        # TF32 keeps ten bits of a float: too few for images that sit on a decision boundary.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
    return device


def _check_writable(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"the report folder must be writable; {existing} is not: {error.strerror} (use --report-dir)"
        ) from None


def claim_id(item: pytest.Item) -> str | None:
    """The id in an item's `claim` marker; None without the marker."""
    marker = item.get_closest_marker("claim")
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.kwargs or not isinstance(marker.args[0], str):
        raise pytest.UsageError(f'{item.nodeid}: the marker must be claim("ID"); got {marker.args} {marker.kwargs}')
    return marker.args[0]


def _look_at_study(items: Sequence[pytest.Item]) -> bool:
    return any({"study", "claim"} & set(getattr(item, "fixturenames", ())) for item in items)


def _values(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)
    return value


def _first_paragraph(item: pytest.Item) -> str:
    text = getattr(getattr(item, "function", None), "__doc__", None) or ""
    return " ".join(text.split("\n\n")[0].split())


@pytest.fixture(scope="session")
def study(request: pytest.FixtureRequest) -> Study:
    """The data, models and evidence that the options ask for; computed when first used, kept in the cache."""
    return request.config.stash[SESSION].study


class Conclusion:
    """What a claim's test calls, once, with its estimate."""

    def __init__(self, claim: Claim, session: ClaimsSession, item: pytest.Item) -> None:
        self._claim, self._session, self._item = claim, session, item
        self.verdict: Verdict | None = None
        session.study.looked_at.clear()
        session.study.kept = 1.0

    def conclude(self, *estimates: Estimate) -> None:
        """Record the verdict on one estimate, or on the smallest of several; then fail if it is not *supported*."""
        if self.verdict is not None:
            raise RuntimeError(f"claim {self._claim.id} must be concluded once; this test concludes it again")
        session = self._session
        self.verdict = judge(
            self._claim,
            estimates,
            decisive=session.decisive,
            pilot=session.pilot,
            available=len(session.study.test),
            kept=session.study.kept,
            conditions=sorted(session.study.looked_at),
        )
        self._item.user_properties.append((_PROPERTY, self.verdict.to_json()))
        if self.verdict.verdict not in {SUPPORTED, PILOT, REPORTED}:
            pytest.fail(self.verdict.message, pytrace=False)


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> Conclusion:
    """The claim that the test's marker names; a test that ends without concluding it fails."""
    session = request.config.stash[SESSION]
    name = claim_id(request.node)
    if name is None:
        raise pytest.UsageError(f'{request.node.nodeid}: the claim fixture needs the marker claim("ID")')
    conclusion = Conclusion(session.registry.claims[name], session, request.node)
    request.node.stash[_UNFINISHED] = conclusion
    return conclusion
