"""Write the reference of the library's public names, from their docstrings, as HTML: `nox -s docs`."""

import sys
from pathlib import Path

import pdoc


def main(folder: Path) -> None:
    """Write it to a folder."""
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.pdoc("vaecore", output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
