"""A user's own models: what is refused on the command line before anything is computed, who trains what, and when."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from vaecore import VAE, ClassifierConfig, Images, Store, VAEConfig, load_images
from vaecore.suite import Study, mean
from vaecore.suite.judging.registry import load_registry
from vaecore.suite.judging.verdict import judge
from vaecore.suite.study import collect, setup, sources
from vaecore.suite.study.models import untrained_digest
from vaecore.suite.study.protocol import Profile, Protocol
from vaecore.suite.study.setup import Dataset, Setup
from vaecore.suite.study.tasks import make

NOT_ALL_SUPPORTED = 8
MODELS = """
import types

import torch
from torch import nn
from models import TinyClassifier, TinyVAE


class VAE(TinyVAE):
    def __init__(self, pixels=64):
        super().__init__(0)
        self.weight = nn.Parameter(self.weight[torch.arange(pixels) % 64].detach())


class Classifier(TinyClassifier):
    def __init__(self):
        super().__init__(0)


def raises(seed):
    raise RuntimeError("no memory")


def nothing(seed):
    return None


def eager(seed, images, settings):
    return VAE()


def made(seed):
    return VAE(784)


vae, classifier, large, without = VAE().train(), Classifier().train(), VAE(784), VAE().to("meta")
grey = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
"""
BROKEN = """

class Broken({kind}):
    def {method}(self, given):
        result = super().{method}(given)
        return {instead}


broken = Broken()
"""


@pytest.fixture
def run(project):
    """Give a function that runs one claim's test in this process, on finished models unless others are named."""
    (project.path / "own.py").write_text(MODELS, encoding="utf-8")
    grey = np.load(project.path / "mine.npz")
    np.savez(project.path / "colour.npz", images=np.stack([grey["images"]] * 3, axis=3), labels=grey["labels"])
    sentence = load_registry("mine.npz").claims["A1"].sentence
    (project.path / "test_it.py").write_text(
        "import pytest\nfrom vaecore.suite import mean\n\n\n@pytest.mark.claim('A1')\ndef test_a1(study, claim):\n"
        f"    '''{sentence}'''\n    claim.conclude(mean(study.table('clean').consistent))\n",
        encoding="utf-8",
    )

    def start(*options):
        return project("--vae=own:vae", "--classifier=own:classifier", *options, models=False)

    start.path = project.path
    return start


SHAPE = "must work on the images of mine.npz, shaped (n, 1, 8, 8); "


@pytest.mark.parametrize(
    ("method", "instead", "message"),
    [
        ("decode", "result.flatten(1)", "the VAE must decode to images *, (2, 1, 8, 8); got (2, 64)"),
        ("decode", "result.logit()", "*must lie in [[]0, 1]; got *(logits? end `decode` with a sigmoid)"),
        ("decode", "result.detach()", "the VAE's decode must be differentiable; it is not *"),
        ("encode", "result[0]", "the VAE must encode to a pair, mean and log-variance; got Tensor"),
        ("encode", "(result[0], given.new_zeros(2, 1))", "*(2, latent) each; got (2, 4) and (2, 1)"),
        ("encode", "(torch.rand_like(result[0]), result[1])", "the VAE's encode must give the same answer *a draw, *"),
        ("encode", "(result[0] - result[0].mean(0), result[1])", "the VAE's encode must answer *alone; *batch *"),
        ("decode", "(result / result.amax(0)).clamp(0, 1)", "the VAE's decode must answer for each image *alone; *"),
        ("forward", "result - result.mean(0)", "the classifier must answer for each image as if it were alone; *"),
        ("encode", "tuple(value.detach() for value in result)", "the VAE's encode must be differentiable; it is not *"),
        ("encode", "(result[0] * torch.nan, result[1])", "the VAE's posterior must be finite; *"),
        (
            "encode",
            "tuple(value.to('meta') for value in result)",
            "encode must answer on cpu, *; it does on meta",
        ),
        ("forward", "result[:, :2]", "the classifier must know all 3 classes of mine.npz; it gives 2*"),
        ("forward", "result.softmax(dim=1)", "the classifier must return logits; got probabilities *"),
        ("forward", "torch.from_numpy(result.detach().numpy())", "the classifier must be differentiable; it is not *"),
        ("forward", "result[0]", "the classifier must map 2 images to logits (2, classes); got (3,)"),
        ("forward", "(result, result.sum())", "*got tuple (wrap the model, so that it gives `model(images)[[]0]`)"),
        ("forward", "{'loss': result.sum(), 'logits': result}", '*; got dict (wrap *`model(images)[[]"logits"]`)'),
        ("forward", "types.SimpleNamespace(logits=result)", "*got SimpleNamespace (wrap *`model(images).logits`)"),
        ("decode", "{'reconstruction': result}", '*got dict (wrap *`model.decode(latents)[[]"reconstruction"]`)'),
        ("decode", "types.SimpleNamespace(sample=result)", "*; got SimpleNamespace (*`model.decode(latents).sample`)"),
        ("decode", "types.SimpleNamespace(pictures=result)", "*must decode to images, a tensor; got SimpleNamespace"),
        (
            "encode",
            "{'embedding': result[0], 'log_covariance': result[1]}",
            '*got dict (wrap *`posterior[[]"embedding"], posterior[[]"log_covariance"]` where *model.encode(images)`)',
        ),
        (
            "encode",
            "types.SimpleNamespace(latent_dist=types.SimpleNamespace(mean=result[0], logvar=result[1]))",
            "*`posterior.latent_dist.mean.flatten(1), posterior.latent_dist.logvar.flatten(1)` where *",
        ),
        (
            "encode",
            "types.SimpleNamespace(mean=result[0], logvar=result[1])",
            "*`posterior.mean.flatten(1), posterior.logvar*",
        ),
        ("encode", "('mean', 'spread')", "*must encode to a pair of tensors, mean and log-variance; got str and str"),
    ],
)
def test_a_model_that_gives_something_else_is_refused(run, refused, method, instead, message):
    kind = "Classifier" if method == "forward" else "VAE"
    source = MODELS + BROKEN.format(kind=kind, method=method, instead=instead)
    (run.path / "own.py").write_text(source, encoding="utf-8")
    option = f"--{kind.lower()}"
    refused(run(f"{option}=own:broken"), f"{option} own:broken {SHAPE}{message}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own:large", SHAPE + "TinyVAE.encode must take *shapes cannot be multiplied (2x64 and 784x4) (was it *"),
        ("own:made", SHAPE + "TinyVAE.encode must take *shapes cannot be multiplied (2x64 and 784x4) (was it *"),
        ("large.safetensors", SHAPE + "this VAE takes images (n, 1, 28, 28); got (2, 1, 8, 8) (resize*"),
        ("own:without", "cannot be moved to cpu: Cannot copy out of meta tensor*"),
        ("own:raises", "*calling it with 0 raised RuntimeError: no memory"),
        ("own:nothing", "must give a model with encode and decode; it lacks encode, decode"),
        ("own:eager", "*raised TypeError: eager() missing 1 required positional *"),
    ],
)
def test_what_is_no_model_of_these_images_is_refused(run, refused, name, message):
    VAE(VAEConfig(latent_size=4, hidden_size=4), (28, 28)).save(run.path / "large.safetensors")
    refused(run(f"--vae={name}"), f"--vae {name} {message}")


def test_a_pickle_is_never_loaded(run, refused):
    (run.path / "model.pt").write_bytes(b"")
    name = "*model.pt is a pickle or TorchScript by its name"
    refused(run("--vae=model.pt"), f"--vae {name}, *never loaded (*my_module:model)")


def test_a_grey_model_on_colour_data_is_refused(run, refused):
    shape = "the images of colour.npz, shaped (n, 3, 8, 8)"
    refused(run("--dataset=colour.npz", "--classifier=own:grey"), f"--* must work on {shape}; *; got RuntimeError: *")


# What intervals cover


def test_finished_models_left_in_training_mode_give_one_run_and_images_only(run):
    result = run()
    assert result.ret in {0, NOT_ALL_SUPPORTED}
    result.stdout.fnmatch_lines(
        ["profile: standard, 1 run *", "intervals cover test images only, as both models are *"]
    )


@pytest.mark.parametrize(("finished", "other"), [("vae", "classifier"), ("classifier", "vae")])
def test_a_finished_model_beside_a_maker_is_the_same_in_all_runs_and_said_to_be(run, finished, other):
    kind = {"vae": "VAE", "classifier": "Classifier"}[other]
    (run.path / "own.py").write_text(MODELS + f"\n\ndef maker(seed):\n    return {kind}()\n")
    result = run(f"--{other}=own:maker")
    named = {"vae": "VAE", "classifier": "classifier"}
    result.stdout.fnmatch_lines(
        [
            "profile: standard, 2 runs (seeds 0 to 1), *",
            f"intervals cover training runs of the {named[other]} and test images, for this one {named[finished]};*",
        ]
    )


def test_a_verdict_says_what_the_interval_leaves_out(tiny):
    left_out = "one vae in all runs: the interval does not cover its training"
    for runs, finished, said, not_said in (
        (2, ("vae",), left_out, "one run"),
        (2, (), "", left_out),
        (1, ("vae", "classifier"), "one run: the interval covers images only", left_out),
    ):
        estimate, facts = mean(np.ones((runs, 600))), replace(tiny.facts, finished=finished)
        message = judge(load_registry("mine.npz").claims["A1"], [estimate], facts).message
        assert said in message
        assert not_said not in message


# What models do beside


def spoiling(method):
    """The method, which also writes into what it is given, and answers in float64."""

    def spoil(self, given):
        answer = method(self, given.clone())
        given.zero_()
        return tuple(part.double() for part in answer) if isinstance(answer, tuple) else answer.double()

    return spoil


def one_of_each_task(study):
    """The result of a task of each function and title of which a report is made."""
    tasks = {(task.function.__name__, task.title): task for task in collect.tasks(study)}
    tasks = {key: task for key, task in tasks.items() if key[1] != "digests of models"}  # which are of their code, too
    return dict(zip(tasks, study.plan.results([*tasks.values()]), strict=True))


@pytest.mark.slow
def test_a_whole_study_is_the_same_whatever_models_write_into_and_in_whatever_dtype_they_answer(
    tiny, tmp_path, monkeypatch
):
    plain = sys.modules[tiny.setup.vae.partition(":")[0]]
    module = ModuleType("a_users_models")
    methods = {name: spoiling(getattr(plain.vae, name)) for name in ("encode", "decode")}
    module.vae = type("VAE", (plain.vae,), methods)
    module.classifier = type("Classifier", (plain.classifier,), {"forward": spoiling(plain.classifier.forward)})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    small = VAEConfig(latent_size=2, hidden_size=4, epochs=1), ClassifierConfig((2, 2), 4, epochs=1)
    monkeypatch.setattr(setup, "reference_configs", lambda _: small)  # for the plain autoencoder
    few = {"protocol": Protocol(Profile("standard", 2, 6, 4, 3))}
    study = again(tiny, Store(tmp_path), vae="a_users_models:vae", classifier="a_users_models:classifier", **few)
    study.setup.check()
    before = study.setup.test.pixels.clone()
    expected = one_of_each_task(again(tiny, Store(tmp_path), **few))
    for name, columns in one_of_each_task(study).items():
        torch.testing.assert_close(columns, expected[name], rtol=0, atol=0, equal_nan=True, msg=str(name))
    assert torch.equal(study.setup.test.pixels, before)


@pytest.mark.parametrize("way", ["scripted", "exported"])
def test_a_classifier_that_cannot_be_looked_into_is_judged_all_the_same(study, way):
    plain, images = sys.modules["a_users_models"].classifier.eval(), study.setup.test.pixels[:4]
    if way == "scripted":
        closed = torch.jit.script(plain)
    else:
        shapes = ({0: torch.export.Dim("images")},)
        closed = torch.export.export(plain, (images,), dynamic_shapes=shapes).module()
    expected = study.table("fgsm-0.2").wrong
    sys.modules["a_users_models"].classifier = closed
    other = again(study)
    other.setup.check()
    np.testing.assert_array_equal(other.table("fgsm-0.2").wrong, expected)


# Training


class Fitted(nn.Module):
    """A VAE whose training is to look at the mean of its images, and at a random number."""

    seen = ()

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(size, 4))
        self.shift = nn.Parameter(torch.zeros(()))

    def encode(self, images):
        return images.flatten(1) @ self.weight / 8 + self.shift, images.new_zeros(len(images), 4)

    def decode(self, latents):
        return (latents @ self.weight.T).sigmoid().view(-1, 1, 8, 8)

    def fit(self, images):
        assert self.training
        assert self.weight.requires_grad
        assert torch.is_grad_enabled()
        type(self).seen += (images,)
        self.shift.data += images.pixels.mean() + torch.rand(())


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two runs whose VAEs are to be trained and whose classifier is finished."""
    module = ModuleType("a_users_models")
    module.make_vae = lambda seed, images: Fitted(images.pixels[0].numel())
    module.classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Fitted, "seen", ())
    images = np.random.default_rng(0).random((60, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "mine.npz", images=images, labels=np.arange(60) % 3)
    setup = Setup(
        Dataset(str(tmp_path / "mine.npz"), "as asked"),
        Protocol(Profile("standard", 2, 12, 8, 4)),
        device=torch.device("cpu"),
        vae="a_users_models:make_vae",
        classifier="a_users_models:classifier",
    )
    return Study.of(setup, Store(tmp_path / "cache"))


def again(study, store=None, **changes):
    """The same study from the start, on what its store keeps or another store."""
    return Study.of(replace(study.setup, **changes), store or study.plan.store)


def vaes(study):
    return [digests["vae"] for digests in study.digests]


def test_a_fit_gets_the_training_images_without_those_held_out_once_a_run(study):
    setup = study.setup
    setup.check()
    assert Fitted.seen == ()
    first = vaes(study)
    assert (setup.finished, setup.trained) == (("classifier",), ("vae",))
    pairs = zip(Fitted.seen, setup.seeds, strict=True)
    assert all(torch.equal(images.pixels, setup.seen(seed).pixels) for images, seed in pairs)
    whole = load_images(setup.dataset.name, "train")
    assert [len(setup.seen(seed)) + len(setup.held_out(seed)) for seed in setup.seeds] == [len(whole)] * 2
    assert first[0] != first[1]
    assert not any(run.vae.training or run.vae.weight.requires_grad for run in study.runs)
    assert vaes(again(study)) == first
    assert len(Fitted.seen) == 2, "what is kept must not be trained again"


def test_training_and_making_follow_from_the_seed_and_leave_torch_s_random_numbers_alone(study, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = vaes(study)
    assert torch.equal(torch.rand(3), expected)
    assert vaes(again(study, Store(tmp_path / "another"))) == first
    assert len(Fitted.seen) == 4


def test_what_a_fit_depends_on_is_in_its_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "a_package"
    folder.mkdir()
    made, digests = Fitted(64), []
    files = {
        "__init__": "",
        "settings": "RATE = 1\n",
        "late": "STEPS = 1\n",
        "bystander": "WIDTH = 1\n",
        "maker": "from a_package.settings import RATE\n\n\ndef make(seed):\n    from . import late\n",
    }
    for change in ({}, {"bystander": "WIDTH = 2\n"}, {"settings": "RATE = 2\n"}, {"late": "STEPS = 2\n"}):
        for name, text in (files | change).items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        for function in vars(sources).values():  # as in a new process
            if hasattr(function, "cache_clear"):
                function.cache_clear()
        digests.append(untrained_digest(made, "a_package.maker:make", "vae"))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    made.weight.data[0, 0] += 1
    assert untrained_digest(made, "a_package.maker:make", "vae") not in digests


def test_what_a_fit_learns_beside_its_weights_is_refused(study):
    class Attribute(Fitted):
        scale = 1.0

        def encode(self, images):
            return super().encode(images * self.scale)

        def fit(self, images):
            self.scale = 0.5

    sys.modules["a_users_models"].make_vae = lambda seed, images: Attribute(64)
    with pytest.raises(ValueError, match="what the vae's `fit` learns must be parameters or buffers"):
        _ = study.runs


def test_other_training_images_are_trained_on_anew(study, tmp_path):
    _ = study.runs
    images = np.random.default_rng(1).random((60, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "other.npz", images=images, labels=np.arange(60) % 3)
    _ = again(study, dataset=Dataset(str(tmp_path / "other.npz"), "as asked")).runs
    assert len(Fitted.seen) == 4


def test_a_fit_of_another_kind_says_what_is_wanted(study, monkeypatch):
    monkeypatch.setattr(Fitted, "fit", lambda self, loader, epochs: None)
    wanted = r"the vae's `fit` must take the training images, .*; it raised TypeError: .*epochs"
    with pytest.raises(ValueError, match=wanted):
        _ = study.runs


class Finished(Fitted):
    """A VAE that is finished when it is made."""

    fit = None

    def __init__(self, generator):
        super().__init__(64)
        self.weight.data = torch.randn(64, 4, generator=generator)


def test_a_maker_that_gives_a_worker_another_model_is_named(study):
    sys.modules["a_users_models"].make_vae = lambda seed: Finished(torch.Generator().manual_seed(seed))
    task = study.setup.model("vae", 1)
    sent = replace(task, arguments=task.arguments | {"made": "what the process that asks got from the maker"})
    with pytest.raises(ValueError, match=r"must give the same model each time it gets a seed.*for 1 it gave another"):
        make(sent, {need.key: need.tensors for need in task.needs})


def test_a_maker_s_images_are_the_study_s_training_images(study):
    given = []

    def make(seed, images):
        given.append((seed, images))
        return Finished(torch.Generator().manual_seed(seed))

    sys.modules["a_users_models"].make_vae = make
    study.setup.check()
    _ = study.runs
    assert [seed for seed, _ in given] == [0, 1]  # what was made to be looked at is used
    assert all(isinstance(images, Images) and images == study.setup.seen(seed) for seed, images in given)
    assert study.setup.trained == ()


def test_a_second_parameter_with_a_default_is_the_maker_s_own(study):
    def make(seed, width=64):
        assert width == 64
        return Finished(torch.Generator().manual_seed(seed))

    sys.modules["a_users_models"].make_vae = make
    study.setup.check()
