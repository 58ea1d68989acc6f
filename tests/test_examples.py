"""The examples, run as their docstrings say, but on smaller images and for a single claim."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from torch.testing import assert_close

import vaecore as vc
from examples import make_data
from examples.convolutional import make_classifier, make_vae
from vaecore import Images, load_images

ROOT = Path(__file__).parents[1]
CLAIM = "claims/test_consistency.py::test_clean_images_are_consistent"
NOT_ALL_SUPPORTED = 8  # exit status of `pytest claims`: a smoke test supports nothing


SHORT = """
from examples import resnet, training

resnet.minimise = lambda *given, steps, **settings: training.minimise(*given, steps=steps // 2, **settings)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of colour digits of 16x16, in which the two runs share their cache."""
    path = tmp_path_factory.mktemp("examples")
    arrays = {}
    for split, (images, labels) in make_data.colour_digits().items():
        small = images.reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4)).round().astype(np.uint8)
        arrays |= {f"{split}_images": small, f"{split}_labels": labels}
    np.savez(path / "small.npz", **arrays)
    return path


def follow(name, folder, *options):
    """Run the command in the docstring of an example, for one claim; gives what it printed."""
    # Not imported: a peer may be missing.
    docstring = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").split('"""')[1]
    (command,) = re.findall(r"^ {4}pytest claims ((?:.*\\\n)*.*)$", docstring, re.MULTILINE)
    command = re.sub(r"--report-dir \S+", "", command)  # a report takes the evidence of all claims
    arguments = shlex.split(command.replace("\\\n", " "))
    arguments += [f"--dataset={folder}/small.npz", f"--cache-dir={folder}/cache"]  # the last one given counts
    arguments += ["--device=cpu", "-pno:cacheprovider", *options]
    run = subprocess.run(  # noqa: S603  # the repository's own
        [sys.executable, "-m", "pytest", CLAIM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == NOT_ALL_SUPPORTED, run.stdout + run.stderr
    return run.stdout


def accuracy(output):
    (lowest,) = re.findall(r"Classifier accuracy on all 797 test images: (0\.\d+) to", output)
    return float(lowest)


@pytest.mark.slow
def test_convolutional_models_learn_colour_digits(folder):
    output = follow("convolutional", folder)
    assert "dataset: small.npz (as asked), 1,000 training images, 797 test images" in output
    assert accuracy(output) > 0.9
    assert len([*(folder / "cache/models").glob("*.safetensors")]) == 2


@pytest.mark.slow
def test_a_vae_of_pythae_stands_beside_another_classifier(folder):
    if importlib.util.find_spec("pythae") is None:
        pytest.skip("pythae is not installed (uv pip install -e '.[peers]')")
    output = follow("pythae_model", folder, "--classifier=examples.convolutional:make_classifier")
    assert "vae examples.pythae_model:make_vae, classifier" in output
    assert accuracy(output) > 0.9


@pytest.mark.parametrize("shape", [(1, 17, 23), (3, 8, 9), (1, 28, 28), (3, 5, 4)])
def test_convolutional_models_take_any_size_and_learn(shape, monkeypatch):
    monkeypatch.setattr(
        "examples.training.minimise.__kwdefaults__", {"steps": 120, "batch_size": 16, "learning_rate": 8e-3}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        labels = torch.arange(60) % 3
        pixels = (labels.view(-1, 1, 1, 1) / 2).expand(-1, *shape).contiguous()
        images = Images(pixels, labels, "plain", "train")
        vae, classifier = make_vae(0, images), make_classifier(0, images)
        before = vc.elbo(vae.eval(), pixels, draws=4, seed=0).mean()
        vae.fit(images)
        classifier.fit(images)
    assert vae.decode(vae.encode(pixels)[0]).shape == pixels.shape
    assert vc.elbo(vae.eval(), pixels, draws=4, seed=0).mean() > before + 0.05 * pixels[0].numel()
    assert (classifier.eval()(pixels).argmax(dim=1) == labels).float().mean() > 0.6  # by chance a third


def test_data_are_the_same_as_an_attribute_a_file_and_a_folder(tmp_path, monkeypatch):
    whole = make_data.colour_digits()
    few = {split: (images[:40], labels[:40]) for split, (images, labels) in whole.items()}
    monkeypatch.setattr(make_data, "colour_digits", lambda: few)
    for name in ("colour.npz", "colour"):
        monkeypatch.setattr(sys, "argv", ["make_data", str(tmp_path / name)])
        make_data.main()
    for split, (images, labels) in few.items():
        expected = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        of_file, of_folder = load_images(tmp_path / "colour.npz", split), load_images(tmp_path / "colour", split)
        assert_close(of_file.pixels, expected)
        order = torch.from_numpy(labels).argsort(stable=True)
        assert torch.equal(of_folder.pixels, of_file.pixels[order])
        assert torch.equal(of_folder.labels, of_file.labels[order])
    assert {len(whole[split][1]) for split in whole} == {1000, 797}


@pytest.mark.slow
def test_a_resnet_with_its_own_normalisation_learns(folder, monkeypatch):
    (folder / "short.py").write_text(SHORT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    output = follow("resnet", folder, "-pshort", "--vae=examples.convolutional:make_vae")
    assert "classifier examples.resnet:make_classifier" in output
    assert accuracy(output) > 0.5  # it is trained for seconds


@pytest.mark.slow
@pytest.mark.parametrize("vae", ["pythae_model", "diffusers_model"])
def test_a_study_of_ones_own_models_ends_in_a_report(folder, vae):
    package = vae.removesuffix("_model")
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (uv pip install -e '.[peers]')")
    text = (ROOT / "docs/own-study.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^pytest (claims .* --profile smoke (?:.*\\\n)*.*)$", text, re.MULTILINE)
    arguments = shlex.split(command.replace("\\\n", " "))
    arguments += [f"--dataset={folder}/small.npz", f"--cache-dir={folder}/cache", f"--report-dir={folder}/{vae}"]
    arguments += [f"--vae=examples.{vae}:make_vae", "--device=cpu", "-pno:cacheprovider"]
    run = subprocess.run(  # noqa: S603  # the repository's own
        [sys.executable, "-m", "pytest", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == NOT_ALL_SUPPORTED, run.stdout + run.stderr
    assert "20 images (10 for L-BFGS); attack budget 8/255, 10 draws an image; vae" in run.stdout
    assert "fgsm-8/255" in (folder / vae / "small.npz" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_notebook_runs_and_ends_in_a_figure(tmp_path, monkeypatch):
    """It is committed without outputs: those of another machine would differ in their last digits, and in each diff."""
    for variable in ("VAECORE_CACHE", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    notebook = nbformat.read(ROOT / "examples/study.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = ["".join(str(one.get("data", one.get("text"))) for one in cell.outputs) for cell in code]
    assert float(code[1].outputs[-1].data["text/plain"]) > 0.85
    assert "test images only" in shown[2]
    assert "<th>latent_shift</th>" in shown[3]
    assert "<td>A1</td><td>not judged</td>" in shown[4]
    assert "image/png" in code[-1].outputs[-1].data
