"""What an install holds beside the package: a wheel the findings, within it; an editable install a link to the package.

A path file with this folder, which hatchling would write, lets every project import `claims`, `bench` and `tests`, too.
Its `dev-mode-exact` does not, but it needs a package that uv does not install: uv reads dependencies from
pyproject.toml, where only the build adds this one.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Python runs this line when it starts. As a module of its own, it would be one more name that can be imported.
LINK = """\
import sys, types, importlib.util as u; sys.meta_path.append(types.SimpleNamespace(find_spec=\
lambda name, path=None, target=None, u=u: u.spec_from_file_location(name, {package!a}) if name == "vaecore" else None))
"""


class Install(BuildHookInterface[Any]):
    """Puts `claims/` into a wheel as `vaecore/findings`, and a line that finds `vaecore` into an editable install."""

    @property
    def _link(self) -> Path:
        return Path(self.directory, "vaecore-link.pth")

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add files; version: "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["claims"] = "vaecore/findings"
            return
        package = str(Path(self.root, "vaecore", "__init__.py"))
        self._link.write_text(LINK.format(package=package), encoding="utf-8")
        build_data["force_include_editable"][str(self._link)] = "_vaecore_link.pth"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what stood beside the wheel to be packed."""
        self._link.unlink(missing_ok=True)
