"""Sessions that set up everything they need: `nox -s reproduce` is the main job, `nox -l` lists the rest."""

import os
import shutil

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["tests"]
nox.options.reuse_existing_virtualenvs = True

NOT_ALL_SUPPORTED = 8  # of vaecore/suite/plugin/session.py: the run is whole, and not every claim is supported
TO_END = 30  # seconds after Ctrl-C, in which pytest ends its workers and says what is kept; nox itself gives 0.3
# Many processes import torch: let the first one keep what it compiles, whatever the caller's shell says.
COMPILED = {"PYTHONDONTWRITEBYTECODE": ""}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # with one of them the report's page is looked at, too
PROJECT = nox.project.load_toml("pyproject.toml")


@nox.session
def reproduce(session: nox.Session) -> None:
    """Train, attack, judge every claim and write the report; options of `pytest claims` follow after `--`."""
    session.install("-e", ".[suite]", *nox.project.dependency_groups(PROJECT, "parallel"))
    codes = [0, NOT_ALL_SUPPORTED]
    command = ("python", "-m", "pytest", "claims", *session.posargs)
    session.run(*command, env=COMPILED, success_codes=codes, interrupt_timeout=TO_END)


@nox.session
def tests(session: nox.Session) -> None:
    """Is the code right? Options of pytest follow after `--`."""
    groups = ["test", "browser"] if any(map(shutil.which, BROWSERS)) else ["test"]
    session.install("-e", ".[suite]", *nox.project.dependency_groups(PROJECT, *groups))
    if session.posargs:
        session.run("python", "-m", "pytest", *session.posargs, env=COMPILED)
        return
    # A process of one thread for each core, and a file's tests in one of them, as they share the models they train.
    spread = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile")
    session.run("python", "-m", "pytest", "tests", *spread, env={"OMP_NUM_THREADS": "1", **COMPILED})


@nox.session
def campaign(session: nox.Session) -> None:
    """Many faults at random (kills, damage, calls, mutants), some 15 minutes; writes reports/campaign.md."""
    session.install("-e", ".[suite]", *nox.project.dependency_groups(PROJECT, "campaign"))
    command = ("python", "-m", "pytest", "tests/campaign", "--campaign", "--campaign-page=reports/campaign.md")
    spread = ("--numprocesses=2", "--dist=worksteal")
    session.run(*command, *spread, *session.posargs, env={"OMP_NUM_THREADS": "1", **COMPILED})


@nox.session
def claims(session: nox.Session) -> None:
    """As `reproduce`, but a claim that is not supported fails the session."""
    session.install("-e", ".[suite]", *nox.project.dependency_groups(PROJECT, "parallel"))
    session.run("python", "-m", "pytest", "claims", *session.posargs, env=COMPILED, interrupt_timeout=TO_END)


@nox.session
def bench(session: nox.Session) -> None:
    """Throughput, side by side with naive code and peers; options of `pytest bench` follow after `--`."""
    session.install("-e", ".[suite,peers]", *nox.project.dependency_groups(PROJECT, "bench"))
    # One thread unless the caller says otherwise: L-BFGS one by one and all at once compare by the core.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    session.run("python", "-m", "pytest", "bench", "--benchmark-only", *session.posargs, env=threads)


@nox.session
def bridges(session: nox.Session) -> None:
    """Do docs/bridges.md and streams of images work with the libraries that they are about?"""
    session.install("-e", ".[suite]", *nox.project.dependency_groups(PROJECT, "bridges"))
    tests = ("tests/test_bridges.py", "tests/suite/study/test_stream.py")
    session.run("python", "-m", "pytest", *tests, "-rs", *session.posargs, env=COMPILED)


@nox.session
def docs(session: nox.Session) -> None:
    """The reference of the library's public names, from their docstrings: build/api/index.html."""
    session.install("-e", ".[suite]", *nox.project.dependency_groups(PROJECT, "docs"))
    session.run("python", "docs/api.py", "build/api")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, mypy's strict types, of the pages' snippets too, and imports that run downward only."""
    session.install("-e", ".[suite]", "nox", *nox.project.dependency_groups(PROJECT, "lint", "test", "docs"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("python", "docs/snippets.py", snippets := f"{session.create_tmp()}/snippets")
    session.run("mypy", snippets)
    session.run("lint-imports")
