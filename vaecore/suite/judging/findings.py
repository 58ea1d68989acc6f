"""Plain facts of the findings: where the claims' tests and their registry are, and what shares an error rate."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
FOLDER = next(folder for folder in (_PACKAGE / "findings", _PACKAGE.parent / "claims") if folder.is_dir())
"""In an installed package they lie within it; in the clone beside it."""

REGISTRY = FOLDER / "registry.toml"
FAMILY, STUDY = "family", "study"  # what shares an error rate of 0.05


def shown(file: Path) -> str:
    """The name of a registry's file in messages."""
    if file == REGISTRY:
        return f"claims/{file.name}"
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)
