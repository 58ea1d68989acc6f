"""Disks that are full or turn read-only, which a user namespace can make."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "reports/mnist/results.json"

# Runs with a disk of its own, one megabyte, mounted at argv[1]. Prints what became of each result, and the warnings.
SCRIPT = """
import json, subprocess, sys, warnings
import torch
from vaecore import Store
from vaecore.suite.report import writing
from vaecore.toolkit import write_atomically
from pathlib import Path

disk, how, results = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_bytes())
store = Store(disk / "cache")
store.get("models", "first", lambda: {"x": torch.zeros(10)})
write_atomically(disk / "kept", b"whole")
if how == "read-only":
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
right, texts, errors = 0, [], []
for number in range(20):
    expected = {"x": torch.full((50_000,), float(number))}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        got = store.get("draws", f"key-{number}", lambda: expected)
        again = store.get("draws", f"key-{number}", lambda: expected)
    texts += [str(warning.message) for warning in caught]
    right += torch.equal(got["x"], expected["x"]) and torch.equal(again["x"], expected["x"])
right += torch.equal(store.get("models", "first", dict)["x"], torch.zeros(10))
for _ in range(3):
    try:
        writing.write(disk / "report", results, {"consistency.png": bytes(900_000)})
    except OSError as error:
        errors.append(error.strerror)
left = [str(path) for path in disk.rglob("*.tmp")]
print(json.dumps([right, texts, errors, left, (disk / "kept").read_text()]))
"""


def _mounts():
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    probe = [unshare, "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0  # noqa: S603


@pytest.mark.slow
@pytest.mark.skipif(not _mounts(), reason="needs user namespaces that may mount a disk, which this system refuses")
@pytest.mark.parametrize("how", ["full", "read-only"])
def test_disks(how, count, tmp_path):
    """Results on a full or read-only disk are computed, with a StoreWarning each; reports end in an OSError."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    mount = f"mount -t tmpfs -o size=1m none '{disk}'"
    script = f"{mount} && exec '{sys.executable}' '{tmp_path}/script.py' '{disk}' {how} '{RESULTS}'"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=120)  # noqa: S603
    right, texts, errors, left, kept = json.loads(process.stdout)
    broken = [text for text in texts if "could not be kept" not in text and "lock" not in text]
    broken += [] if right == 21 else [f"{right} of 21 results were right"]
    broken += [] if texts else ["no warning"]
    broken += [] if len(errors) == 3 else [f"reports: {errors}"]
    broken += [f"left: {path}" for path in left] + ([] if kept == "whole" else ["a whole file was damaged"])
    count(f"results and reports on a {how} disk", 24, broken, sorted({*errors}))
