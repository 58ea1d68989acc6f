"""Do the snippets of docs/bridges.md and docs/notebooks.md work? Each is run where its package is installed."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/bridges.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n.*?^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
PAGE = (ROOT / "docs/notebooks.md").read_text(encoding="utf-8")
(NOTEBOOKS,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PIXELS, LABELS = torch.rand(60, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
MODULES = {
    "pytorch-ood": "pytorch_ood",
    "torch-uncertainty": "torch_uncertainty.metrics",
    "robustbench": "torch",
}  # robustbench's own line is not run


class TinyVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))

    def encode(self, images):
        return images.flatten(1) @ self.weight / 8, images.new_zeros(len(images), 4)

    def decode(self, latents):
        return (latents @ self.weight.T).sigmoid().view(-1, 1, 8, 8)


@pytest.fixture
def follow(tmp_path, monkeypatch):
    """Give a function that runs a section's snippet, and gives what it defines."""
    monkeypatch.setenv("VAECORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # it would rather have a database
    monkeypatch.chdir(tmp_path)

    def run(name, code=None, **given):
        package = MODULES.get(name, name)
        pytest.importorskip(
            package, reason=f"{name} is not installed (nox -s bridges, or by hand)", exc_type=ImportError
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        names = {"vae": TinyVAE(), "classifier": classifier, "report": ROOT / "reports/mnist", "__name__": "a_script"}
        names |= given
        exec(compile(code or SECTIONS[name], f"<{name}>", "exec"), names)  # noqa: S102  # our own
        return names

    return run


def test_every_bridge_has_a_test():
    tested = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert set(SECTIONS) <= tested


def test_the_snippet_of_the_page_on_notebooks(follow):
    pytest.importorskip("pandas", reason="pandas is not installed (uv pip install pandas)")
    found = follow(
        "pandas", NOTEBOOKS, x_train=PIXELS[:48], y_train=LABELS[:48], x_test=PIXELS[48:], y_test=LABELS[48:]
    )
    assert found["study"].facts.test_images == 12


def test_torchvision(follow):
    found = follow("torchvision")
    assert found["study"].facts.dataset == "fake-data"
    assert len(found["study"].setup.test) == 12


def test_datasets(follow):
    found = follow("datasets")
    whole = found["study"].setup.dataset
    seen = torch.cat([whole.training.pixels, whole.test.pixels])
    assert seen.mul(255).round().sum() == torch.from_numpy(found["pixels"]).sum()  # as PNG, without loss


def test_robustbench(follow):
    found = follow("robustbench")
    run = found["study"].run(0)
    images = found["images"][:5]
    expected = found["classifier"]((images - 0.5) / 0.25)
    assert torch.allclose(run.classifier(images), expected)


def test_pytorch_ood(follow):
    found = follow("pytorch-ood")
    pixels = found["study"].setup.test.pixels[found["study"].setup.indices]
    expected = -found["classifier"](pixels.rot90(dims=(2, 3))).logsumexp(dim=1)
    assert torch.allclose(torch.from_numpy(found["turned"][0]).float(), expected)
    assert 0 <= found["detection"].value <= 1


def test_torchmetrics(follow):
    found = follow("torchmetrics")
    assert found["ours"] == pytest.approx(found["theirs"], abs=1e-6)
    assert 0 < found["calibration"] < 1


def test_torch_uncertainty(follow):
    found = follow("torch-uncertainty")
    assert found["ours"] == pytest.approx(found["area"], abs=1 / len(found["looked_at"]))
    assert 0.5 < found["ours"] < 0.9


def test_mlflow(follow):
    found = follow("mlflow")
    (run,) = found["mlflow"].search_runs(output_format="list")
    assert run.data.metrics == pytest.approx(found["measured"])
    assert run.data.tags["A1"] == "supported"


def test_wandb(follow, capfd):
    follow("wandb")
    assert re.search(r"A1 0\.89818", capfd.readouterr().err)
