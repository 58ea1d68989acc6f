"""Every warning is an error in tests, but not in claims and benchmarks, whose models may warn; a cluster to kill."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch._dynamo  # noqa: F401  # a module first imported within pytester is forgotten; torch's fail twice

SCHEDULER = """
import sys
from distributed.cli.dask_scheduler import main
main(["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", sys.argv[1]])
"""
WORKER = """
import sys
from distributed.cli.dask_worker import main
main(["--scheduler-file", sys.argv[1], "--no-nanny", "--nthreads", sys.argv[2], "--no-dashboard",
      "--local-directory", sys.argv[3], *sys.argv[4:]])
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            # PyTorch itself uses torch.jit where it compiles; and tests of bfloat16 may run where it is slow.
            for rule in ("ignore:.*torch.jit", "ignore:precision 'bfloat16' is slower", "error"):
                item.add_marker(pytest.mark.filterwarnings(rule), append=False)


class Machines:
    """A scheduler and workers as a user starts them, in processes that can be killed."""

    def __init__(self, folder):
        self.folder, self.file, self.workers = folder, folder / "scheduler.json", []
        self.log = (folder / "log").open("a", encoding="utf-8")
        self.scheduler = self._run(SCHEDULER, self.file)
        end = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < end
            time.sleep(0.05)

    def _run(self, code, *words, **variables):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "default"} | variables
        command = [sys.executable, "-c", code, *map(str, words)]
        return subprocess.Popen(command, env=environment, stderr=self.log)  # noqa: S603  # our own

    def worker(self, *options, threads=1, **variables):
        self.workers.append(self._run(WORKER, self.file, threads, self.folder, *options, **variables))
        return self.workers[-1]

    @property
    def alive(self):
        return [worker for worker in self.workers if worker.poll() is None]

    def end(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self.log.close()


@pytest.fixture
def start_machines(tmp_path):
    """Give a function that starts a scheduler; it gives `Machines`, which end with the test."""
    started = []

    def start():
        folder = tmp_path / f"machines-{len(started)}"
        folder.mkdir()
        started.append(Machines(folder))
        return started[-1]

    yield start
    for machines in started:
        machines.end()
