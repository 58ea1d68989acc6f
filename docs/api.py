"""Write the reference of the library's public names, from their docstrings, as HTML: `nox -s docs`."""

import sys
from pathlib import Path

import pdoc

import vaecore


def main(folder: Path) -> None:
    """Write it to a folder."""
    # The package gives its names by `import x as x`, which pdoc takes for somebody else's.
    vaecore.__all__ = [name for name in vars(vaecore) if not name.startswith("_")]  # type: ignore[attr-defined]
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.pdoc("vaecore", output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
