"""Wrong arguments of every public function: refused by our own checks, in words, and never taken for others."""

import copy
import inspect
import traceback
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import vaecore as vc

OURS = Path(vc.__file__).parent
NAN, INF = float("nan"), float("inf")
COUNTS = [0, -1, 1.5, 2.0, True, "2", np.float64(2), NAN, INF, torch.tensor(2)]
NUMBERS = [NAN, INF, -1.0, "0.1", True, 1j, torch.tensor(0.1)]
CHOICES = ["shfit", "", 0, True, np.array(["a", "b"])]
VECTORS = ["abc", ["a", "b"], [[1.0, 2.0], [3.0]], [[[1.0]]], [], [1j, 2j], [NAN, NAN], [None, 0.5]]
IMAGES = [[[0.0]], np.zeros((4, 1, 5, 4)), torch.zeros(4, 1, 5, 4, dtype=torch.int64), torch.zeros(0, 1, 5, 4)]
STRANGERS = ["mine", 0, torch.zeros(4, 1, 5, 4)]
# Wrong values by the name of the argument; None is one, too, unless it is the default.
WRONG = {
    **dict.fromkeys(("draws", "chunk", "steps", "starts", "restarts", "queries", "evaluations", "eot", "bins"), COUNTS),
    **dict.fromkeys(
        (
            *("importance_draws", "selection", "neighbours", "regret_steps", "posterior_steps", "regret_draws"),
            *("count", "classes"),
        ),
        COUNTS,
    ),
    **dict.fromkeys(("latent_size", "latent_channels", "hidden_size", "epochs", "batch_size"), COUNTS),
    "bits": [*COUNTS, 9],
    "quality": [*COUNTS, 101],
    "size": [*COUNTS, 2],
    "seed": [-1, 2**64, 0.5, 1.0, True, "0", np.int64(-1), NAN],
    "known_seed": [-1, 2**64, 0.5, True, "0"],
    "thresholds": [{"kl": 1.0}, {"mse": 0.0}, {"mse": NAN}, 0.5, ["mse"]],
    "shrinking": ["yes", 1, 0.0],
    "first_index": [-1, 0.5, True, "0", 2**63],
    **dict.fromkeys(("epsilon", "step_size", "sigma", "alpha", "rate", "level", "momentum"), NUMBERS),
    **dict.fromkeys(("beta", "learning_rate", "dropout", "label_smoothing", "weight_decay"), NUMBERS),
    **dict.fromkeys(("norm", "loss", "how", "bound", "precision", "equal", "decide", "backward"), CHOICES),
    **dict.fromkeys(("augmentation", "split"), CHOICES),
    "indices": [np.arange(4), [0, 1, 2, 3], torch.arange(4.0), torch.arange(3), torch.tensor([0, 1, 2, -1]), 0],
    **dict.fromkeys(("images", "train_images", "pixels"), IMAGES),
    "labels": ["ab", torch.full((4,), -1), torch.full((4,), 0.5), torch.full((4,), 9), torch.arange(3)],
    "targets": [[0, 1, 2, 3], torch.full((4,), -1), torch.full((4,), 9), torch.arange(3), torch.arange(4.0)],
    **dict.fromkeys(("inside", "outside", "confidence", "doubt", "right", "wrong", "probabilities", "logits"), VECTORS),
    "patch": COUNTS,
    "above": [-1, 3, 1.0, True, "1", NAN],
    "lower": CHOICES,
    "latent_sizes": [(3,), (2, 3), (0, 3, 2), (1, 2.5, 2), "abc", 3],
    "hidden_sizes": [(3,), (2, 3), (0, 3, 2), (1, 2.5, 2), "abc", 3],
    "free_nats": [(3.0,), (2.0, 3.0), (0.0, NAN, 1.0), (0.0, -1.0, 1.0), "abc", 3.0],
    "image_shape": [(8,), (0, 8), 8, "ab", (8.5, 8), (1, 1, 8, 8)],
    "channels": [(1,), (0, 1), "ab", (1.5, 2)],
    **dict.fromkeys(("train", "config", "vae", "classifier", "purifier"), STRANGERS),
    "purifiers": [[], [None], "mine", vc.Threshold()],
    "names": ["no score", [], [5]],
}
# Arguments of the same name that mean something else.
OTHERS = {
    ("lbfgs", "confidence"): NUMBERS,
    ("outside", "inside"): STRANGERS,
    ("letters", "first_index"): [-1, 0.5, True, "0"],
    ("flips", "targets"): COUNTS,
    ("worst_case", "targets"): COUNTS,
    ("distinct_labels", "labels"): ["ab", torch.zeros(4, 2), torch.arange(3), torch.zeros(4, 0, dtype=torch.int64)],
}
# Any will do, or their own tests say what will.
FREE = {
    ("Images", "split"),
    ("Images", "labels"),
    ("letters", "split"),
    ("squared_error", "images"),
    ("discretised_logistic", "images"),
}
GIVEN_TO_USERS = {"Attack", "Bin", "BrierParts", "Certificate", "FittedScores", "Sanity", "Score", "StoreWarning"}

# Functions of tensors that are no models.
NO_MODELS = {("flips", "rounding"), ("likelihood_regret", "log_density"), ("reconstruct", "reduce")}


def wrong_arguments():
    """Each argument of each public function that some values are wrong for, with these values."""
    functions = {name: getattr(vc, name) for name in vc.__all__ if name not in GIVEN_TO_USERS}
    for name, function in functions.items():
        for argument, details in inspect.signature(function).parameters.items() if callable(function) else ():
            if argument in WRONG and (name, argument) not in FREE:
                none = [] if details.default is None else [None]
                yield name, argument, [*OTHERS.get((name, argument), WRONG[argument]), *none]


WRONG_ARGUMENTS = [*wrong_arguments()]


@pytest.fixture(scope="module")
def given(tiny_vae, tiny_hierarchical_vae, tiny_classifier, some_images):
    """What to give for an argument without a default."""
    vae, classifier, images = tiny_vae(), tiny_classifier(), some_images(4)
    logits = classifier(images).detach()
    labels = logits.argmax(dim=1)
    train = vc.Images(images, labels, "mine", "train")
    models = {"vae": vae, "classifier": classifier, "purifier": vc.Threshold(), "purifiers": [vc.Threshold()]}
    models |= {"hierarchical vae": tiny_hierarchical_vae(), "rounding": vc.Threshold()}
    tensors = {
        "images": images,
        "pixels": images,
        "train_images": images,
        "labels": labels,
        "targets": (labels + 1) % 4,
    }
    numbers = {"draws": 2, "seed": 0, "epsilon": 0.1, "sigma": 0.1, "count": 2, "classes": 4, "image_shape": (5, 4)}
    results = {"inside": [0.5, 0.9], "outside": [0.5, 0.9], "logits": logits, "probabilities": logits.softmax(dim=1)}
    answers = {"confidence": [0.5, 0.9], "right": [True, False], "doubt": [0.5, 0.9], "wrong": [True, False]}
    return models | tensors | numbers | results | answers | {"train": train, "name": "digits", "split": "test"}


def required(name, given):
    """The arguments without a default of a public function, and settings for a short training."""
    parameters = inspect.signature(getattr(vc, name)).parameters.values()
    config = vc.VAEConfig(2, 4, epochs=1)
    if "lassifier" in name or name == "fit_robust":
        config = vc.ClassifierConfig((2, 2), 4, epochs=1)
    elif "ierarchical" in name:
        config = vc.HierarchicalVAEConfig((1, 3, 2), (4, 6, 5), patch=2, epochs=1)
    if name in ("ConvVAE", "ResidualClassifier"):
        conv, residual = vc.ConvVAEConfig(2, (2, 2, 2)), vc.ResidualConfig((2, 2, 2))
        config, given = conv if name == "ConvVAE" else residual, given | {"image_shape": (8, 8)}
    known = given | {"config": config} | ({"name": "rotated-15", "inside": given["train"]} if name == "outside" else {})
    if name in ("partial_elbo", "likelihood_ratio"):
        known["vae"] = given["hierarchical vae"]
    wanted = [each.name for each in parameters if each.default is each.empty or each.name == "config"]
    return {argument: known[argument] for argument in wanted}


@pytest.mark.parametrize(
    ("name", "argument", "values"), WRONG_ARGUMENTS, ids=[f"{n}-{a}" for n, a, _ in WRONG_ARGUMENTS]
)
def test_a_wrong_argument_is_refused_by_our_own_checks(given, name, argument, values):
    arguments = required(name, given)
    for value in values:
        with pytest.raises((ValueError, TypeError), match="; got ") as caught:
            getattr(vc, name)(**arguments | {argument: value})
        raised = traceback.extract_tb(caught.value.__traceback__)[-1]
        assert OURS in Path(raised.filename).parents, (value, caught.value)


@pytest.mark.parametrize("name", [name for name in vc.__all__ if inspect.isfunction(getattr(vc, name))])
def test_settings_go_by_name_alone(name):
    """What has a default does, but for a model's config and where a set is; what has none may go by either."""
    for argument in inspect.signature(getattr(vc, name)).parameters.values():
        setting = argument.default is not argument.empty and argument.name not in ("config", "split", "root")
        by_name = argument.kind is argument.KEYWORD_ONLY
        assert by_name if setting else by_name or argument.kind is argument.POSITIONAL_OR_KEYWORD


# Models in training mode, in which two equal calls may differ


MODELS = ("Autoencoder", "HierarchicalVAE'", "Classify", "Callable[[torch.Tensor]")


def models_taken():
    """Each argument of each public function that takes a model, by the type that it says it takes."""
    for name in sorted({*vc.__all__} - GIVEN_TO_USERS):
        function = getattr(vc, name)
        for argument, details in inspect.signature(function).parameters.items() if callable(function) else ():
            taken = str(details.annotation)
            if any(
                kind in taken for kind in ("Autoencoder", "HierarchicalVAE'", "Classify", "Callable[[torch.Tensor]")
            ):
                yield name, argument


@pytest.mark.parametrize(("name", "argument"), [each for each in models_taken() if each not in NO_MODELS])
def test_a_model_in_training_mode_is_refused(given, name, argument):
    arguments = required(name, given) | ({"neighbours": 1} if name == "fit_scores" else {})
    model = copy.deepcopy(arguments.get(argument, given["classifier"]))
    getattr(vc, name)(**arguments | {argument: model})
    with pytest.raises(ValueError, match=r"must be in evaluation mode; got \w+ in training mode \(call \w+\.eval\(\)"):
        getattr(vc, name)(**arguments | {argument: model.train()})


@pytest.fixture
def switching(given):
    """Functions of images whose models may be switched to training mode after they were given, by name."""
    vae, classifier, labels = copy.deepcopy(given["vae"]), copy.deepcopy(given["classifier"]), given["labels"]
    fitted = vc.fit_scores(vae, classifier, given["images"], seed=0, names=["disagreement"])
    detector, target = vc.VAEDetector(vae, classifier, draws=2), vc.ScoreDetector(fitted, "disagreement")
    purified = vc.Purified(vc.LatentSearch(vae, steps=1), classifier)
    functions = {
        "fitted scores": fitted,
        "VAEDetector": lambda images: vc.fgsm(detector, images, labels, epsilon=0.1),
        "ScoreDetector": lambda images: vc.pgd(target, images, labels, epsilon=0.1, seed=0, steps=1),
        "VAEPurifier": vc.VAEPurifier(vae),
        "LatentSearch": purified.purifier,
        "Purified": purified,
        "certify": lambda images: vc.certify(lambda noisy: -purified(noisy), images, sigma=0.1, seed=0, draws=2),
    }
    return {"vae": vae, "classifier": classifier}, functions


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("LatentSearch", ["vae"]),
        ("Purified", ["vae", "classifier"]),
        ("ScoreDetector", ["vae", "classifier"]),
        ("VAEDetector", ["vae", "classifier"]),
        ("VAEPurifier", ["vae"]),
        ("certify", ["vae", "classifier"]),
        ("fitted scores", ["vae", "classifier"]),
    ],
)
def test_a_model_that_is_switched_to_training_mode_later_is_refused(given, switching, name, models):
    switched, functions = switching
    for each in models:
        functions[name](given["images"])
        switched[each].train()
        with pytest.raises(ValueError, match=r"must be in evaluation mode; got (VAE|Sequential) in training mode"):
            functions[name](given["images"])
        if name == "ScoreDetector":
            with pytest.raises(ValueError, match="the fitted scores must be in evaluation mode; got"):
                vc.ScoreDetector(functions["fitted scores"], "disagreement")
        switched[each].eval()


NET = nn.Sequential(nn.Flatten(), nn.Linear(20, 4)).eval()  # of this file, as one of a notebook is of its cells


class Around:
    """What calls a net: an object with it, with a list that has it, or with a method that has it."""

    def __init__(self, net):
        self.net = net

    def __call__(self, images):
        net = self.net[0] if isinstance(self.net, list) else self.net
        return net(images)

    def classify(self, images):
        return self(images)


class Hidden(nn.Module):
    """A module that does not know its part, which is in a list; so `eval` does not reach it."""

    def __init__(self, net):
        super().__init__()
        self.nets = [net]
        self.eval()

    def forward(self, images):
        return self.nets[0](images)


def of_the_file(images):
    return NET(images)


def apply(net, images):
    return net(images)


def calling(net):
    return lambda images: -net(images)


def asking(around):
    return lambda images: -around.net(images)


WAYS = {
    "a bound method": lambda net: Around(net).classify,
    "a bound method of a module": lambda net: net.forward,
    "a closure": calling,
    "a closure of a closure": lambda net: calling(calling(net)),
    "a closure's attribute": lambda net: asking(Around(net)),
    "a comprehension": lambda net: lambda images: torch.stack([net(image[None])[0] for image in images]),
    "a decorator": lambda net: torch.no_grad()(calling(net)),
    "a default": lambda net: lambda images, net=net: net(images),
    "a function of a file": lambda _: of_the_file,
    "a function that such a function calls": lambda _: lambda images: -of_the_file(images),
    "a list that a module hides": Hidden,
    "a method that an object has": lambda net: SimpleNamespace(classify=Around(net).classify).classify,
    "a partial function": lambda net: partial(apply, net),
    "a partial function's function": lambda net: partial(calling(net)),
    "an object": Around,
    "an object with a list": lambda net: Around([net]),
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_module_in_training_mode_is_seen_in(some_images, way):
    images, classifier = some_images(3), WAYS[way](NET)
    half = SimpleNamespace(encode=lambda given: classifier(given).split(2, dim=1), decode=given_back)
    tries = {
        "classifier": lambda: vc.certify(classifier, images, sigma=0.1, seed=0, draws=2),
        "VAE": lambda: vc.latent_mean(half, images),
    }
    for what, attempt in tries.items():
        attempt()
        NET.train()
        try:
            with pytest.raises(ValueError, match=rf"the {what} must be in evaluation mode; got Sequential in training"):
                attempt()
        finally:
            NET.eval()


def given_back(latents):
    return latents.sigmoid().mean(dim=1).view(-1, 1, 1, 1).expand(-1, 1, 5, 4)


def test_what_a_model_does_not_call_may_be_in_training_mode(some_images):
    """As the trainer whose net is asked, or another net of the same file."""

    class Trainer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.other = NET, nn.Dropout()

        @property
        def best(self):
            raise RuntimeError("there is none yet")

        def judge(self, images):
            def classify(noisy):
                return -self.net(noisy) if noisy.ndim == 4 else self.best(noisy)

            return vc.certify(classify, images, sigma=0.1, seed=0, draws=2)

    trainer = Trainer()
    assert trainer.training
    assert trainer.other.training
    assert len(trainer.judge(some_images(2)).label) == 2


SMALL = {"draws": 200, "first_index": 250, "seed": 250}  # the largest is 255, and sums of them overflow
INTEGERS = [
    each for each in WRONG if WRONG[each] is COUNTS or each in ("bits", "quality", "size", "seed", "first_index")
]


@pytest.mark.parametrize("name", sorted({name for name, argument, _ in WRONG_ARGUMENTS if argument in INTEGERS}))
def test_integers_of_numpy_are_integers(given, name):
    function, arguments = getattr(vc, name), required(name, given)
    numbers = {each: SMALL.get(each, 3) for each in inspect.signature(function).parameters if each in INTEGERS}
    plain, of_numpy = (
        function(**arguments | {each: kind(number) for each, number in numbers.items()}) for kind in (int, np.uint8)
    )
    plain, of_numpy = (getattr(result, "images", result) for result in (plain, of_numpy))
    if isinstance(plain, torch.Tensor):
        assert torch.equal(plain, of_numpy)
    assert not any(isinstance(value, np.integer) for value in getattr(of_numpy, "__dict__", {}).values())
