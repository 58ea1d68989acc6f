"""Whole runs of the claims, each in a fork of one process that has imported all they need; some are killed.

Takes jobs as JSON: {"data", "cache", "report", "workers", "kill": null or [seconds, signal]}. Prints, a line each, the
exit status, the seconds that the run took, and the processes that it left.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401  # what every run would import otherwise
import pytest
import scipy.optimize  # noqa: F401
import sklearn.linear_model  # noqa: F401
import torch._dynamo  # noqa: F401
import torchvision.datasets  # noqa: F401

from vaecore.suite.plugin import session  # noqa: F401

ORPHANS = 10  # seconds in which a worker must notice that its parent is gone
MODELS = ["--vae=tiny_models:TinyVAE", "--classifier=tiny_models:TinyClassifier"]


def left(group):
    """Processes of a group that are alive."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            alive.append(int(folder.name))
    return alive


def run(job):
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(f"{job['cache']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, target in enumerate((null, log, log)):
        os.dup2(target, stream)
    options = [*MODELS, f"--dataset={job['data']}", "--profile=smoke", "--device=cpu", f"--workers={job['workers']}"]
    options += [f"--cache-dir={job['cache']}", f"--report-dir={job['report']}"]
    return int(pytest.main(["claims", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *options]))


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it
for job in json.loads(sys.argv[1]):
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setpgid(0, 0)
            code = run(job)
        finally:
            os._exit(code)
    if job["kill"]:
        seconds, number = job["kill"]
        while (
            time.monotonic() - start < seconds
            and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.01)
        os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    took = time.monotonic() - start
    while (alive := left(child)) and time.monotonic() - start - took < ORPHANS:
        time.sleep(0.1)
    for process in alive:
        os.kill(process, signal.SIGKILL)
    print(json.dumps({"code": code, "seconds": took, "left": alive}), flush=True)  # noqa: T201
