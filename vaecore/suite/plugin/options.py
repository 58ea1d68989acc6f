"""Options, the marker and the fixtures: what pytest loads in every project. It imports no torch.

`plugin/session.py`, which judges the claims, is imported for the first test that uses the fixture `study` or `claim`.
Options are added after those of all other plugins and of conftest.py; names that these have taken are left to them, so
that another project does not notice this package.
"""

import gc
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vaecore.suite.budget import COLOUR, DRAWS, GREY
from vaecore.suite.judging.findings import FAMILY, FOLDER, STUDY
from vaecore.suite.plugin.items import VERDICT, asks_for_study, usage_error
from vaecore.suite.study.protocol import PILOT_SEED, PROFILES
from vaecore.suite.text import counted, intensity
from vaecore.toolkit import EMBEDDED, TORCHVISION

if TYPE_CHECKING:
    from vaecore.suite.plugin.conclusion import Conclusion
    from vaecore.suite.plugin.session import ClaimsSession
    from vaecore.suite.study.study import Study

REGISTRY_FILE = "registry.toml"
_SESSION = pytest.StashKey["ClaimsSession"]()
_TAKEN = pytest.StashKey[list[str]]()
_PACKAGE = "vaecore"  # whose findings ask for a study

OPTIONS: dict[str, dict[str, Any]] = {
    "--dataset": {
        "default": "auto",
        "metavar": "NAME",
        "help": f"{', '.join(TORCHVISION)}, digits; or your own: path/to/file.npz with `images` and"
        " `labels`, path/to/folder with a folder of image files for each class, or package.module:attribute, (images,"
        " labels) or a callable that gives them (default: auto, mnist where it is on disk or can be downloaded, else"
        " digits)",
    },
    "--data-root": {
        "metavar": "DIR",
        "help": "folder of torchvision's data sets; one of its sets in colour may also be an .npz there, NAME.npz or"
        " NAME-subset.npz (default: VAECORE_DATA, else a folder in the user's cache)",
    },
    "--profile": {
        "default": "standard",
        "choices": tuple(PROFILES),
        "help": "; ".join(
            f"{one.name}: {counted(one.runs, 'run')}, {counted(one.images, 'image')}, {one.lbfgs_images:,} for L-BFGS"
            for one in PROFILES.values()
        )
        + " (default: standard)",
    },
    "--runs": {"type": int, "metavar": "N", "help": "training runs (default: the profile's)"},
    "--first-seed": {
        "type": int,
        "metavar": "N",
        "help": f"training seed of the first run, below {PILOT_SEED}, where those of pilots begin (default: 0)",
    },
    "--images": {
        "type": int,
        "metavar": "N",
        "help": "test images looked at, clean ones too (standard: 10,000 of these); expensive attacks keep their shares"
        " (default: the profile's)",
    },
    "--attack-share": {
        "type": float,
        "metavar": "F",
        "help": "share of these images for L-BFGS and what else is expensive; attacks that differentiate through the"
        " VAE keep their share of that (default: the profile's)",
    },
    "--epsilon": {
        "metavar": "SIZE",
        "help": "attack budget: how much an attacker may change each pixel (L-infinity), as 0.1 or 8/255; all sizes of"
        f" attacks and of their noise are multiples of it (default: {intensity(GREY)} for grey images,"
        f" {intensity(COLOUR)} for colour)",
    },
    "--draws": {
        "type": int,
        "metavar": "N",
        "help": f"reconstructions of an image (default: {DRAWS})",
    },
    "--device": {"default": "auto", "choices": ("auto", "cpu", "cuda"), "help": "where to compute (default: auto)"},
    "--workers": {
        "type": int,
        "metavar": "N",
        "help": "processes that compute, a gigabyte of memory each; 1: this process alone (default: one for each core,"
        " at most 8; 1 for --profile smoke, on a GPU and under pytest-xdist)",
    },
    "--cluster": {
        "metavar": "ADDRESS",
        "help": "compute on a dask cluster: its scheduler's address (tcp://host:8786, tls://...), a scheduler file, or"
        " local:N, N processes of this machine (see docs/scaling.md)",
    },
    "--cluster-report": {"metavar": "FILE", "help": "write dask's performance report, an HTML file"},
    "--precision": {
        "default": "float32",
        "choices": ("float32", "tf32", "bfloat16"),
        "help": "number format of the reconstructions in families A, B and E1 to E4; bfloat16 is faster where the"
        " processor has it, tf32 on a GPU (default: float32)",
    },
    "--vae": {
        "metavar": "MODEL",
        "help": "your own (encode and decode): package.module:attribute, a torch module, or a maker of one:"
        " make(seed) or make(seed, images) (see docs/own-models.md); or a file saved by vaecore"
        " (default: the reference model)",
    },
    "--classifier": {
        "metavar": "MODEL",
        "help": "your own (images to logits): package.module:attribute, a torch module, or a maker of one:"
        " make(seed) or make(seed, images) (see docs/own-models.md); or a file saved by vaecore"
        " (default: the reference model)",
    },
    "--ood": {
        "action": "append",
        "default": [],
        "metavar": "SET",
        "help": "another set outside to compare with; may be repeated: rotated-D (degrees), dimmed-F"
        f" (factor), {', '.join((*TORCHVISION, *EMBEDDED))}, or your own, as for --dataset"
        " (.npz files in the folder `ood` of --data-root are taken without asking)",
    },
    "--report-dir": {
        "metavar": "DIR",
        "help": "write results.json, index.html, summary.md and figures to DIR/<dataset>; for claims of your own alone,"
        " the first two to DIR/<dataset>-own (default: reports, when all claims were concluded on the reference models"
        " with the standard profile, else none)",
    },
    "--cache-dir": {
        "metavar": "DIR",
        "help": "models and evidence are kept here (default: VAECORE_CACHE, else the user's cache folder;"
        " see `vaecore cache`)",
    },
    "--shared-cache": {
        "action": "store_true",
        "help": "take a cache folder that all users of the machine can write to; whoever writes there can plant results"
        " (default: refuse it; a folder of one group is taken)",
    },
    "--error-rate": {
        "default": FAMILY,
        "choices": (FAMILY, STUDY),
        "help": "whose intervals share an error rate of 0.05: family: those of each family, study: those of all claims,"
        " which are wider (default: family)",
    },
    "--pilot": {
        "action": "store_true",
        "help": "measure and do not judge, on training seeds from 1000 on, which claims never use; suggests bounds",
    },
    "--plan": {
        "action": "store_true",
        "help": "list the tasks that the claims and the report need, how many of them are in the cache, and how long"
        " the others take by past runs; compute nothing",
    },
    "--bounds": {
        "metavar": "FILE",
        "help": "file of bounds for data that the registry has none for: a run with --pilot writes it, a run without"
        " judges by it",
    },
}


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser) -> Iterator[None]:
    """Add the options, once all others are known."""
    yield
    missing = object()
    taken = [name for name in OPTIONS if early_config.getoption(name, missing) is not missing]
    early_config.stash[_TAKEN] = taken
    group = parser.getgroup("claims", "claims about VAEs for robustness")
    for name, settings in OPTIONS.items():
        if name not in taken:
            group.addoption(name, dest=f"claims_{name[2:].replace('-', '_')}", **settings)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "claim(id): the test concludes the claim registered under this id")


def session_of(config: pytest.Config) -> "ClaimsSession":
    """The session that judges the claims, made when first asked for.

    Raises pytest.UsageError where another plugin has taken its options.
    """
    if _SESSION not in config.stash:
        from vaecore.suite.plugin.request import request_of  # noqa: PLC0415  # no other project needs it

        if taken := config.stash.get(_TAKEN, []):
            raise usage_error(
                f"{', '.join(taken)} must be options of the claims; another plugin or conftest.py has taken them"
                " (a plugin is left out with `-p no:NAME`; `pytest --trace-config` lists them)"
            )
        try:
            request_of(config)  # mistakes are told before torch is imported
        except (ValueError, OSError) as error:
            raise usage_error(error) from None
        with _without_garbage_collection():
            from vaecore.suite.plugin.session import ClaimsSession  # noqa: PLC0415  # it imports torch

        # A damaged entry is worth a warning and never a failure, even where a project turns warnings into errors.
        config.addinivalue_line("filterwarnings", "default::vaecore.StoreWarning")
        begin(config, ClaimsSession(config))
    return config.stash[_SESSION]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Within, nothing is freed that refers to itself. Torch's import makes a million objects, none of them garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def begin(config: pytest.Config, session: "ClaimsSession") -> None:
    """Have a session judge the claims of a run."""
    config.stash[_SESSION] = session
    config.pluginmanager.register(session, "claims-session")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Check the options in the controller of pytest-xdist, as a worker would end with a traceback."""
    config = session.config
    if config.getoption("dist", "no") == "no" or hasattr(config, "workerinput"):
        return
    if config.getoption("claims_plan", default=False):
        raise usage_error("--plan must run in one process, not in those of pytest-xdist (leave out -n)")
    config.pluginmanager.register(_Controller(config), "claims-controller")
    if any(_names_claims(argument.partition("::")[0], config) for argument in config.args):
        session_of(config).check_options()


class _Controller:
    """Makes the session in the controller of pytest-xdist, which collects nothing, at the first verdict of a worker."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Hand on a verdict that comes before the session has hooks of its own."""
        if _SESSION not in self.config.stash and any(name == VERDICT for name, _ in report.user_properties):
            session_of(self.config).pytest_runtest_logreport(report)


def _names_claims(argument: str, config: pytest.Config) -> bool:
    """Whether an argument of pytest names tests of this package, or those beside a registry."""
    path = Path(argument).resolve()
    if config.getoption("pyargs") and not path.exists():
        return argument.partition(".")[0] == _PACKAGE
    folder = path if path.is_dir() else path.parent
    return path.is_relative_to(FOLDER) or path.is_relative_to(FOLDER.parent / "bench") or _is_registry(folder)


def _is_registry(folder: Path) -> bool:
    try:
        entries = tomllib.loads((folder / REGISTRY_FILE).read_text(encoding="utf-8")).values()
    except (OSError, ValueError):
        return False  # another tool's file, or one whose mistakes the workers report
    return any(isinstance(entry, dict) and {"sentence", "estimand"} <= set(entry) for entry in entries)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check tests of claims against the registries."""
    if not any(asks_for_study(item) for item in items):
        return
    if config.option.collectonly:
        from vaecore.suite.plugin.registered import registries_of  # noqa: PLC0415  # no other project needs it

        registries_of(config, items)
    else:
        session_of(config).check(items)


@pytest.fixture(scope="session")
def study(request: pytest.FixtureRequest) -> "Study":
    """The data, models and evidence that the options ask for; computed when first used, kept in the cache."""
    return session_of(request.config).study


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> "Conclusion":
    """The claim that the test's marker names; a test that ends without concluding it fails."""
    return session_of(request.config).conclusion(request.node)
