"""The Python of the pages, for a type checker: `python docs/snippets.py FOLDER` writes a file a page."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))
EXCERPTS = ("bridges", "notebooks")
_SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def snippets() -> dict[str, str]:
    """Each page's snippets, one after another, by the page's name; without pages of excerpts.

    Those import nothing, or take names that stand for the reader's own, `vae` say, and are run by tests.
    """
    pages = {page.stem: "\n".join(_SNIPPET.findall(page.read_text(encoding="utf-8"))) for page in PAGES}
    return {name: code for name, code in pages.items() if re.match("import|from", code) and name not in EXCERPTS}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.py"):
        stale.unlink()
    for name, code in snippets().items():
        (folder / f"{name.replace('-', '_').lower()}.py").write_text(code, encoding="utf-8")
