"""A study that is made in Python, of tensors and modules at hand: its tables, verdicts and errors, and its cache."""

import subprocess
import sys
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import vaecore as vc
from vaecore.suite import CLEAN, FGSM, SCORES, Study, mean
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.plugin import in_python, reporting
from vaecore.suite.plugin.options import OPTIONS
from vaecore.suite.plugin.session import ClaimsSession
from vaecore.suite.study import collect
from vaecore.suite.study.conditions import INSIDE
from vaecore.suite.study.executors import Here
from vaecore.suite.study.plan import NotComputedError

MODELS = """
import torch
from torch import nn

class TinyVAE(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 4, generator=torch.Generator().manual_seed(seed)))

    def encode(self, images):
        return images.flatten(1) @ self.weight / 8, images.new_zeros(len(images), 4)

    def decode(self, latents):
        return (latents @ self.weight.T).sigmoid().view(-1, 1, 8, 8)

class TinyClassifier(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 3, generator=torch.Generator().manual_seed(100 + seed)))

    def forward(self, images):
        return images.flatten(1) @ self.weight

class Fitted(TinyVAE):
    def fit(self, images):
        self.weight.data += images.pixels.mean()
"""


def cell(text=MODELS):
    """What a cell of a notebook defines."""
    names = {"__name__": "a_notebook"}
    exec(compile(text, "<cell>", "exec"), names)  # noqa: S102  # as a notebook does
    return SimpleNamespace(**names)


LABELS = torch.arange(60) % 3


def pixels():
    return torch.from_numpy(np.random.default_rng(0).random((60, 8, 8), dtype=np.float32))


@pytest.fixture
def make(tmp_path):
    """Give a function that makes a study of random images and tiny models; all share a cache."""

    def of(dataset=None, notebook=None, **options):
        models = notebook or cell()
        given = {"vae": models.TinyVAE(0), "classifier": models.TinyClassifier(0), "profile": "smoke", "images": 12}
        given |= {"device": "cpu", "cache_dir": tmp_path / "cache"}
        return Study.make((pixels(), LABELS) if dataset is None else dataset, **given | options)

    return of


# Tables


def test_a_study_by_objects_is_the_study_by_names(make, tmp_path, monkeypatch):
    """The same images and models give the same numbers, to the last bit."""
    np.savez(tmp_path / "mine.npz", images=pixels().numpy(), labels=LABELS.numpy())
    monkeypatch.setitem(sys.modules, "a_users_models", module := type(sys)("a_users_models"))
    exec(MODELS, vars(module))  # noqa: S102  # its makers
    by_names = make(tmp_path / "mine.npz", vae="a_users_models:Fitted", classifier="a_users_models:TinyClassifier")
    models = cell()
    by_objects = make(vae=models.Fitted, classifier=models.TinyClassifier)
    assert (by_objects.facts.vae, by_objects.facts.dataset) == ("Fitted", "my-images")
    assert by_objects.setup.trained == ("vae",)
    for of in (CLEAN, FGSM(1)):
        first, second = (study.table(of).columns for study in (by_names, by_objects))
        assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_frame_has_a_row_for_each_run_and_image(make):
    pytest.importorskip("pandas", reason="pandas is not installed (uv pip install pandas)")
    models = cell()
    study = make(vae=models.TinyVAE, classifier=models.TinyClassifier, runs=2)
    table = study.table("fgsm-0.2")
    frame = table.to_frame()
    assert [*frame.columns[:1], *frame.columns[-1:]] == ["run", "draw_probability_9"]
    assert frame.run.tolist() == [0] * 12 + [1] * 12
    assert frame.label.tolist() == study.setup.test.labels[frame["index"].tolist()].tolist()
    assert np.array_equal(frame.mse.to_numpy().reshape(2, 12), table.mse)
    assert np.array_equal(frame.draw_mse_3.to_numpy().reshape(2, 12), table["draw_mse"][:, :, 3])
    scores = study.table(INSIDE, of=SCORES)
    lengths = {name: column.shape[1] for name, column in scores.columns.items()}
    frame = scores.to_frame()
    assert min(lengths.values()) < max(lengths.values()) == len(frame) / 2
    assert {name: int(frame[name].notna().sum()) // 2 for name in lengths} == lengths


@pytest.mark.parametrize("form", ["images", "splits", "arrays"])
def test_data_in_each_form_are_the_same_images(make, form):
    whole = make().setup.dataset
    parts = {"train": whole.training, "test": whole.test}
    given = {
        "images": parts,
        "splits": {split: (images.pixels, images.labels) for split, images in parts.items()},
        "arrays": (pixels().numpy(), LABELS.numpy()),
    }
    setup = make(given[form]).setup
    assert (setup.test.digest, setup.train.digest) == (whole.test.digest, whole.training.digest)


# Verdicts


def test_claims_gives_verdicts_and_reasons(make):
    study = make({"test": (pixels(), LABELS)})  # finished models need no training images
    table = study.claims("A1", "A2", "C1a", "C4a")
    rows = {row["claim"]: row for row in table.rows}
    assert [*rows] == ["A1", "A2", "C1a", "C4a"]
    assert rows["A1"]["estimate"] == mean(study.table(CLEAN).consistent).value
    assert rows["A1"]["images"] == 12
    assert rows["C1a"]["verdict"] == "no verdict"
    assert "takes images of kmnist" in rows["C1a"]["message"]
    assert "--" not in rows["C1a"]["message"]
    assert "A1" in str(table)


def test_what_a_claim_s_test_raises_is_its_reason(make, monkeypatch):
    study = make()

    def raises(*_, **__):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Study, "table", raises)
    (row,) = study.claims("A1").rows
    assert (row["verdict"], row["message"]) == ("no verdict", "ZeroDivisionError: planted")


def test_an_id_that_is_not_registered_is_named(make):
    with pytest.raises(ValueError, match=r"^ids must be registered; got Z1, a1 \(registered: A1, .*\)$"):
        make().claims("A1", "Z1", "a1")


REGISTRY = """
[families]
X = "Of another package"

[X1]
kind = "finding"
sentence = "Clean images are consistent."
estimand = "share"
source = "none"
no_effect = "> 0"
"""
CLAIM = """
import pytest
from vaecore.suite import mean

@pytest.mark.claim("X1")
def test_x1(study, claim):
    \"\"\"Clean images are consistent.\"\"\"
    claim.conclude(mean(study.table("clean").consistent))
"""


def test_settings_of_the_project_around_are_left_alone(make, tmp_path, monkeypatch, capfd):
    """As where the package is installed into an environment that lies in the project's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    installed = tmp_path / "venv/findings"
    installed.mkdir(parents=True)
    (installed / "registry.toml").write_text(REGISTRY, encoding="utf-8")
    (installed / "test_x.py").write_text(CLAIM, encoding="utf-8")
    monkeypatch.setattr(in_python, "FOLDER", installed)
    assert len(make().claims("X1")) == 1
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in tmp_path.iterdir()} == {"pytest.ini", "conftest.py", "cache", "venv"}


def test_an_interruption_goes_on_to_the_caller(make, monkeypatch):
    study = make()
    monkeypatch.setattr(study.plan.executor, "submit", stop)
    with pytest.raises(KeyboardInterrupt):
        study.claims("A1")


def stop(*_):
    raise KeyboardInterrupt


def test_a_report_of_a_study_in_python(make, tmp_path, monkeypatch):
    """What is written follows `pytest claims --report-dir`, which has tests of its own; without it, nothing is."""
    folders, asked = [], []
    monkeypatch.setattr(ClaimsSession, "_report", lambda _, folder, _head: folders.append(folder))
    monkeypatch.setattr(collect, "tasks", lambda _: asked.append("all") or [])
    study = make()
    study.claims("A1")
    assert (folders, asked) == ([None], [])
    study.claims("A1", report_dir=str(tmp_path / "reports"))
    assert (folders[1:], asked) == ([tmp_path / "reports" / "my-images"], ["all"])


def test_the_command_of_a_study_in_python_is_a_call(make):
    command = reporting.head(make(draws=4), load_registry("my-images"), [])["command"]
    assert command == (
        "Study.make(dataset='my-images', profile='smoke', images='12', draws='4', device='cpu', vae='TinyVAE',"
        " classifier='TinyClassifier')"
    )


# The cache


class Refusing(Here):
    def submit(self, task, _):
        raise AssertionError(f"{task.title} must be in the cache")


def consistent(study):
    return np.asarray(study.table("fgsm-0.2").disagreement)


def test_an_equal_study_computes_nothing_and_any_other_does(make):
    """Two models of one class with other weights; equal weights with other code, which no probe shows; other images."""
    first = consistent(make())
    same = make()
    same.plan.executor = Refusing()
    assert np.array_equal(consistent(same), first)
    hidden = "return (latents @ self.weight.T).sigmoid()"
    assert hidden in MODELS
    others = [
        make(vae=cell().TinyVAE(1)),
        make(classifier=cell().TinyClassifier(1)),
        make(notebook=cell(MODELS.replace(hidden, "return (latents @ self.weight.T / (1 + 1e-9)).sigmoid()"))),
        make(((1 - pixels()), LABELS)),
    ]
    for other in others:
        other.plan.executor = Refusing()
        with pytest.raises(AssertionError, match="must be in the cache"):
            consistent(other)


def test_what_becomes_of_models_and_images_later_changes_nothing(make):
    models = cell()
    vae, classifier, images, labels = models.TinyVAE(0), models.TinyClassifier(0), pixels(), LABELS.clone()
    study = make({"test": vc.Images(images[:, None], labels, "x", "test")}, vae=vae, classifier=classifier)
    with torch.no_grad():
        for changed in (*vae.parameters(), *classifier.parameters(), images):
            changed.mul_(0.5)
        labels.zero_()
    vae.decode = None
    assert np.array_equal(consistent(study), consistent(make({"test": (pixels(), LABELS)})))


def test_a_module_in_training_mode_is_judged_in_evaluation_mode(make):
    classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3))
    study = make(classifier=classifier.train())
    assert classifier.training
    assert not study.run(0).classifier.training


@pytest.mark.slow
def test_processes_get_classes_of_a_script(tmp_path):
    """Classes of `__main__` travel by value, and the numbers are those of one process."""
    script = tmp_path / "script.py"
    script.write_text(
        MODELS
        + """
import sys
from vaecore.suite import Study

images = torch.rand(60, 8, 8, generator=torch.Generator().manual_seed(0))
study = Study.make(
    (images, torch.arange(60) % 3), vae=TinyVAE(0), classifier=TinyClassifier, profile="smoke", images=12,
    device="cpu", cache_dir=sys.argv[2], workers=int(sys.argv[1]),
)
print(study.facts.workers, study.table("fgsm-0.2").disagreement.tolist())
""",
        encoding="utf-8",
    )
    outputs = []
    for workers in ("1", "2"):
        command = [sys.executable, str(script), workers, str(tmp_path / workers)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)  # noqa: S603
        assert run.returncode == 0, run.stderr
        outputs.append(run.stdout.split(maxsplit=1))
    assert [workers for workers, _ in outputs] == ["1", "2"]
    assert outputs[0][1] == outputs[1][1]


# Errors


def locked():
    module = nn.Flatten()
    module.lock = __import__("threading").Lock()
    return module


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, r"^runs must be 1 or more; got 0$"),
        ({"images": "60"}, r"^images must be 2 or more; got '60'$"),
        ({"draws": 2.5}, r"^draws must be 2 or more; got 2.5$"),
        ({"cluster": "local:0"}, r"^cluster local:N must have 1 process or more; got local:0$"),
        ({"workers": "2"}, r"^workers must be 1 or more; got '2'$"),
        ({"attack_share": "0.1"}, r"^attack_share must be above 0 and at most 1; got '0.1'$"),
        ({"attack_share": 2}, r"^attack_share must be above 0 and at most 1; got 2$"),
        ({"first_seed": 1000}, r"^first_seed must be below 1000, where the seeds of pilots begin; got 1000$"),
        ({"workers": 0}, r"^workers must be 1 or more; got 0$"),
        ({"epsilon": 2}, r"^an attack budget \(epsilon\) must be above 0 and at most 0.4"),
        ({"profile": "large"}, r"^profile must be one of smoke, standard, full; got 'large'$"),
        ({"device": "tpu"}, r"^device must be auto, cpu or cuda; got 'tpu'$"),
        ({"precision": "float16"}, r"precision must be "),
        ({"ood": ["no-such"]}, r"no-such"),
        ({"dataset": pixels()}, r"^the data must be a pair \(images, labels\), or .*; got Tensor$"),
        ({"dataset": (pixels() * 2, LABELS)}, r"^the data: images must lie in \[0, 1\]; .*undo mean/std"),
        ({"dataset": {"train": (pixels(), LABELS)}}, r"^the data must give .*; it lacks 'test'$"),
        ({"dataset": (pixels(), None)}, r"^claims need labels: my-images must have `labels`"),
        ({"dataset": {"test": (pixels(), LABELS)}, "vae": None}, r"^the data must give .*; it lacks 'train'$"),
        ({"vae": nn.Linear(2, 2)}, r"^vae Linear must give a model with encode and decode; it lacks encode, decode$"),
        ({"vae": lambda images: images}, r"^vae <lambda> must give a model with encode and decode; it lacks "),
        ({"classifier": torch.zeros(3)}, r"^classifier Tensor must be a module or a maker"),
        ({"classifier": locked()}, r"^classifier must be an object that can be pickled.*Flatten raised TypeError"),
        ({"classifier": nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Softmax(dim=1))}, r"got probabilities"),
        ({"classifier": nn.Linear(2, 3)}, r"^classifier Linear must work on the images of my-images, shaped "),
        ({"classifier": "no.such:thing"}, r"^classifier must be package.module:attribute; no.such:thing can't be"),
    ],
)
def test_errors_are_those_of_the_options(make, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        make(**options)
    assert "--" not in str(raised.value)


def test_every_option_that_shapes_a_study_is_a_keyword():
    of_a_run = {"report-dir", "error-rate", "pilot", "plan", "bounds", "cluster-report"}
    options = {name.removeprefix("--") for name in OPTIONS} - of_a_run
    keywords = {name.replace("_", "-") for name in signature(Study.make).parameters}
    assert keywords == options | {"name", "meter"}


def test_a_name_of_a_set_is_not_taken_for_the_set(make):
    """Registered bounds are for MNIST, whatever else is called so."""
    assert make(name="mnist").facts.dataset == "given-mnist"
    assert load_registry("given-mnist").claims["A1"].bound != load_registry("mnist").claims["A1"].bound


def test_a_meter_sees_the_work(make):
    seen = []

    class Meter:
        def __init__(self, title):
            seen.append(title)

        def __enter__(self):
            return lambda work: seen.append((work.done, work.of))

        def __exit__(self, *_):
            pass

    make(meter=Meter).table(CLEAN).mse.mean()
    assert [*dict.fromkeys(seen)] == ["draws, clean", (0, 1), (1, 1)]


def test_a_plan_of_it_computes_nothing(make):
    study = make().planning()
    with pytest.raises(NotComputedError):
        study.table(CLEAN).mse.mean()
    assert Path(study.plan.store.folder).name == "cache"
