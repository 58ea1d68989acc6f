"""What the options of a run ask for, as plain values. Imports no torch, so that a mistake is told at once."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from vaecore import outside_name
from vaecore.suite.budget import budget_of
from vaecore.suite.cache import cache_folder
from vaecore.suite.judging.bound import read_toml
from vaecore.suite.study.addresses import check_address
from vaecore.suite.study.model_names import names_attribute
from vaecore.suite.study.protocol import Profile, draws_of, profile_of, seed_of
from vaecore.toolkit import check_findable, check_source, is_named


@dataclass(frozen=True)
class Request:
    """A run's profile, draws, attack budget (None: the usual one for its images), first seed, workers and cache.

    workers: None for as many as there are cores.
    """

    profile: Profile
    draws: int
    budget: float | None
    first_seed: int
    workers: int | None
    cache: Path


def request_of(config: pytest.Config) -> Request:
    """What the options ask for; raises ValueError or OSError for one that can't be, whatever the data are."""
    option = config.getoption
    if option("--report-dir") is not None:
        _check_writable(Path(option("--report-dir")))
    if option("--dataset") != "auto":
        check_source(option("--dataset"))
    for source in option("--ood"):
        outside_name(source)
    for kind in ("vae", "classifier"):
        if (text := option(f"--{kind}")) is not None:
            names_attribute(text, kind)
    given = {name: option(name) for name in ("--dataset", "--vae", "--classifier") if option(name) is not None}
    for name, text in [*given.items(), *(("--ood", source) for source in option("--ood"))]:
        if is_named(text):
            check_findable(text, name)
    if option("--bounds") is not None and not option("--pilot"):
        read_toml(Path(option("--bounds")))
    workers: int | None = option("--workers")
    if workers is not None and workers < 1:
        raise ValueError(f"--workers must be 1 or more; got {workers}")
    if option("--cluster") is not None:
        check_address(option("--cluster"))
        if workers is not None:
            raise ValueError("--workers must be left out with --cluster, whose workers compute")
    elif option("--cluster-report") is not None:
        raise ValueError("--cluster-report must come with --cluster")
    epsilon: str | None = option("--epsilon")
    return Request(
        profile_of(*(option(name) for name in ("--profile", "--runs", "--images", "--attack-share"))),
        draws_of(option("--draws")),
        None if epsilon is None else budget_of(epsilon),
        seed_of(option("--first-seed"), pilot=option("--pilot")),
        workers,
        cache_folder(option("--cache-dir")),
    )


def _check_writable(folder: Path) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"the report folder must be writable; {existing} is not: {error.strerror} (use --report-dir)"
        ) from None
