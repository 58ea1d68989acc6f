"""Tests run on mutants: each in a fork of one process that has imported the libraries, with a copy of the package.

Takes, as JSON, the root of the project, an empty folder, and mutants: [module, its source with the fault, its tests,
seconds]. Prints for each whether its tests failed ("caught"), passed ("lived") or took too long ("hung").
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import hypothesis  # noqa: F401  # what tests would import otherwise
import numpy as np  # noqa: F401
import pytest
import scipy.optimize
import scipy.stats  # noqa: F401
import sklearn.calibration
import sklearn.metrics  # noqa: F401
import torch
import torch._dynamo
import torchvision  # noqa: F401

root, folder, mutants = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_bytes())
torch.set_num_threads(1)
for part in ("vaecore", "claims", "tests"):
    shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
for part in ("pyproject.toml", "conftest.py"):
    shutil.copy(root / part, folder / part)
os.chdir(folder)
sys.path.insert(0, str(folder))
sys.dont_write_bytecode = True

for module, source, tests, most in mutants:
    whole = (folder / module).read_bytes()
    (folder / module).write_text(source, encoding="utf-8")
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:benchmark"]
            code = int(pytest.main([*options, f"--basetemp={folder}/temporary", *tests]))
        finally:
            os._exit(code)
    start, ended = time.monotonic(), (0, 0)
    while ended == (0, 0) and time.monotonic() - start < most:
        time.sleep(0.02)
        ended = os.waitpid(child, os.WNOHANG)
    if ended == (0, 0):
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        became = "hung"
    else:
        became = "lived" if os.waitstatus_to_exitcode(ended[1]) == 0 else "caught"
    text = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    print(json.dumps([became, time.monotonic() - start, text[-1500:]]), flush=True)  # noqa: T201
    (folder / module).write_bytes(whole)
