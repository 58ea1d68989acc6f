"""Whole runs, and the writing of reports, killed at random moments; and runs that share a cache."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vaecore import VAE, Classifier, ClassifierConfig, Store, VAEConfig, load_classifier, load_vae
from vaecore.suite import results as results_file
from vaecore.suite.report import writing
from vaecore.suite.study import setup
from vaecore.suite.study.cluster import Cluster
from vaecore.suite.study.conditions import CLEAN, FGSM, JOINT, LBFGS
from vaecore.suite.study.draws import DRAWS
from vaecore.suite.study.plan import Plan, WorkerDiedError
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.toolkit import read_tensors, seeded

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# What differs between two runs of the same study.
OF_THE_RUN = ("made", "command", "wall_seconds", "task_seconds", "environment")
CONTEXT = multiprocessing.get_context("forkserver")  # a process without threads, which forks
CONTEXT.set_forkserver_preload([writing.__name__])

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc of Linux")


def study_of(report):
    """What a report says of the study itself."""
    (file,) = Path(report).glob("*/results.json")
    return {key: value for key, value in json.loads(file.read_bytes()).items() if key not in OF_THE_RUN}


def start(jobs):
    """A process of whole runs, one after the other."""
    return subprocess.Popen(  # noqa: S603  # our own script
        [sys.executable, str(HERE / "studies.py"), json.dumps(jobs)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def runs(jobs, timeout):
    """Outcomes of whole runs, one after the other."""
    return [json.loads(line) for line in start(jobs).communicate(timeout=timeout)[0].splitlines()]


def torn(folder):
    """Files of a cache that are not whole, but for temporary ones."""
    broken = []
    for path in Path(folder).rglob("*.safetensors"):
        try:
            read_tensors(path)
        except ValueError as error:
            broken.append(str(error))
    return broken


@dataclass
class Undisturbed:
    """A run that nobody disturbed: its data, exit status, seconds, cache and report."""

    data: str
    code: int
    seconds: float
    cache: Path
    report: dict

    def job(self, folder, name, workers, kill=None):
        """A run of the same study in a cache and a report folder of their own."""
        places = {"cache": f"{folder}/cache-{name}", "report": f"{folder}/report-{name}"}
        return {"data": self.data, **places, "workers": workers, "kill": kill}

    def differs(self, job, outcome):
        """How a run that was not killed ended otherwise, in words; empty where it did not."""
        if outcome["code"] != self.code:
            return f"{job}: exit status {outcome['code']} in place of {self.code}"
        return f"{job}: another report" if study_of(job["report"]) != self.report else ""


@pytest.fixture(scope="module")
def undisturbed(large, tmp_path_factory):
    """The study of a user's models and of the first 300 digits, 8x8."""
    if not large:
        pytest.skip("whole runs take minutes: `nox -s campaign` kills them; test_interrupt.py kills small studies")
    folder = tmp_path_factory.mktemp("undisturbed")
    digits = load_digits()
    pixels = (digits.images[:300] / 16).astype(np.float32)
    np.savez(folder / "digits.npz", images=pixels, labels=digits.target[:300])
    run = Undisturbed(str(folder / "digits.npz"), 0, 0.0, folder / "cache-0", {})
    job = run.job(folder, 0, workers=1)
    (outcome,) = runs([job], 600)
    run.code, run.seconds, run.report = outcome["code"], outcome["seconds"], study_of(job["report"])
    assert run.code in {0, 8}, Path(f"{job['cache']}.log").read_text(encoding="utf-8")  # all claims were judged
    return run


@LINUX
@pytest.mark.slow
def test_whole_runs_killed_at_random_moments(undisturbed, chance, count, tmp_path):
    """A killed run leaves no torn file and no process; the same command goes on, and ends in the same report."""
    kills, broken, number = 0, [], 0
    while kills < 50:
        number += 1
        jobs = []
        for _ in range(chance.randint(5, 8)):
            signals = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
            kill = [chance.uniform(0.3, undisturbed.seconds / 3), int(chance.choice(signals))]
            jobs.append(undisturbed.job(tmp_path, number, chance.choice((1, 2)), kill))
        jobs.append(undisturbed.job(tmp_path, number, workers=1))
        outcomes = runs(jobs, 900)
        broken += [
            f"{job}: {outcome['left']} went on" for job, outcome in zip(jobs, outcomes, strict=True) if outcome["left"]
        ]
        kills += sum(outcome["code"] != undisturbed.code for outcome in outcomes[:-1])
        broken += [*torn(jobs[-1]["cache"]), *filter(None, [undisturbed.differs(jobs[-1], outcomes[-1])])]
        broken += [f"{jobs}: {path.name} is left" for path in Path(jobs[-1]["report"]).rglob(".*.tmp")]
    count("whole runs killed", kills, broken, [f"{number} studies; {undisturbed.seconds:.0f} s a whole run"])


@LINUX
@pytest.mark.slow
def test_runs_that_share_a_cache(undisturbed, count, tmp_path):
    """Runs that start at once on one cache end in the same report, each."""
    each = 4
    jobs = [
        undisturbed.job(tmp_path, number, 1 + number % 2) | {"cache": f"{tmp_path}/cache"} for number in range(each)
    ]
    started = [start([job]) for job in jobs]
    outcomes = [json.loads(process.communicate(timeout=900)[0]) for process in started]
    broken = [undisturbed.differs(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)]
    count("runs that share a cache", each, [*filter(None, broken), *torn(f"{tmp_path}/cache")])


def entries(folder):
    """Contents of all stored results."""
    tensors = {path.name: read_tensors(path)[1] for path in Path(folder).glob("*/*.safetensors")}
    return {name: {part: value.numpy().tobytes() for part, value in of.items()} for name, of in tensors.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # dask warns of what it has to clean up
def test_a_cluster_killed_at_random_moments(start_machines, chance, large, count, tmp_path, monkeypatch):
    """Whether a worker or the scheduler is killed, a run, or the same one once more, gives what one process does."""
    pytest.importorskip("distributed", reason="dask is not installed (uv pip install 'dask[distributed]')")
    configs = VAEConfig(latent_size=4, hidden_size=16, epochs=2), ClassifierConfig((3, 4), 8, epochs=1)
    monkeypatch.setattr(setup, "reference_configs", lambda _: configs)
    protocol = Protocol(Profile("test", runs=2, images=60, lbfgs_images=20, adaptive_images=6), shard=5)
    study = setup.Setup(setup.Dataset("digits", ""), protocol, device=torch.device("cpu"))
    tasks = [task for condition in (CLEAN, FGSM(1), LBFGS, JOINT(1.5)) for task in DRAWS.tasks(study, condition)]
    Plan(Store(tmp_path / "alone")).compute(tasks, "alone")
    expected = entries(tmp_path / "alone")

    machines = start_machines()
    for _ in range(2):
        machines.worker()
    kills, losses, broken, number, seconds = 0, 0, [], 0, 60.0
    while kills < (20 if large else 2):
        cluster = Cluster(str(machines.file))
        done = threading.Event()
        begin, wait = time.monotonic(), chance.uniform(0, 0.8 * seconds)
        victim = machines.scheduler if chance.random() < 0.2 else chance.choice(machines.alive)

        def kill(done=done, wait=wait, victim=victim):
            if not done.wait(wait):
                victim.kill()

        killer = threading.Thread(target=kill)
        if number:  # the first run says how long one takes
            killer.start()
        try:
            Plan(Store(tmp_path / f"{number}"), cluster).compute(tasks, "on a cluster")
        except WorkerDiedError:
            losses += 1
        finally:
            done.set()
            cluster.close()
        if number:
            killer.join()
            kills += victim.poll() is not None
        else:
            seconds = time.monotonic() - begin
        if machines.scheduler.poll() is not None:
            machines = start_machines()
            Plan(Store(tmp_path / f"{number}")).compute(tasks, "the rest")
        while len(machines.alive) < 2:
            machines.worker()
        if entries(tmp_path / f"{number}") != expected:
            broken.append(f"after {wait:.2f} s of {seconds:.2f}: other results than of one process, on a cluster")
        number += 1
    count("clusters whose worker or scheduler was killed", kills, broken, [f"the scheduler was lost {losses} times"])


@pytest.mark.slow
def test_writing_of_reports_killed_at_random_moments(chance, large, count, tmp_path):
    """Each file of a report is the old one or the new one, whole; the next writing leaves nothing else behind."""
    expected = json.loads((ROOT / "reports/mnist" / results_file.FILE).read_bytes())
    broken, tries = [], 150 if large else 5
    figures = {"consistency.png": b"\x89PNG" + bytes(200_000), "forest.svg": b"<svg>" + b" " * 100_000}
    old, new = ({**expected, "made": made, "wall_seconds": {}} for made in ("2001-01-01", "2002-02-02"))
    folder = tmp_path / "report"
    times = []
    for _ in range(2):
        start = time.perf_counter()
        writing.write(folder, old, figures)
        times.append(time.perf_counter() - start)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    writing.write(tmp_path / "other", new, figures)
    after = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    for _ in range(tries):
        delay = chance.uniform(0, 2 * max(times))
        writer = CONTEXT.Process(target=writing.write, args=(folder, new, figures))
        writer.start()
        writer.join(delay)
        writer.kill()
        writer.join()
        for path in folder.iterdir():
            temporary = path.name.startswith(".") and path.suffix == ".tmp"
            if not temporary and path.read_bytes() not in (before[path.name], after[path.name]):
                broken.append(f"after {delay:.4f} s: {path.name} is neither the old file nor the new one")
            if temporary:
                os.utime(path, (0, 0))  # as a run of another day would find it
        writing.write(folder, old, figures)
        again = {path.name: path.read_bytes() for path in folder.iterdir()}
        if again != before:
            broken.append(f"after {delay:.4f} s: the next writing left {sorted(again)}")
    count("reports killed while they are written", tries, broken)
    assert results_file.load(folder / results_file.FILE)


def test_flipped_bits(chance, large, count, tmp_path):
    """A file of weights or of the store in which a bit was flipped is refused, with a ValueError."""
    with seeded(0, torch.device("cpu")):
        VAE(VAEConfig(3, 16), (8, 8)).save(tmp_path / "vae.safetensors")
        Classifier(ClassifierConfig((3, 4), 8), (8, 8), 10).save(tmp_path / "classifier.safetensors")
        Store(tmp_path).write("store", "key", {"x": torch.rand(99), "y": torch.arange(9) > 4}, seconds=1)
    (tmp_path / "store/key.safetensors").rename(tmp_path / "store.safetensors")
    readers = {"vae": load_vae, "classifier": load_classifier}
    tries, broken = 3_000 if large else 60, []
    for number in range(tries):
        kind = ("vae", "classifier", "store")[number % 3]
        content = bytearray((tmp_path / f"{kind}.safetensors").read_bytes())
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        content[place] ^= 1 << bit
        damaged = tmp_path / "damaged.safetensors"
        damaged.write_bytes(content)
        try:
            readers.get(kind, read_tensors)(damaged)
        except ValueError:
            continue
        except Exception as error:  # noqa: BLE001  # which is not what is promised
            broken.append(f"{type(error).__name__}: {error}")
        broken.append(f"{kind}: bit {bit} of byte {place} of {len(content)}")
    count("flipped bits in weights and stored results", tries, broken)
