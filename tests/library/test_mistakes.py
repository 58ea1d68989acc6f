"""Usual mistakes are refused with what to do about them, by name."""

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vaecore as vc

IMAGES = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])
TABLE = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.6, 0.3, 0.1]])  # probabilities
ONE_HOT = nn.functional.one_hot(LABELS, 4)
SCORES = np.array([0.1, 0.4, 0.35, 0.8])


@dataclass
class ModelOutput:
    """What a Hugging Face model answers."""

    logits: torch.Tensor


class Coder(nn.Module):
    """A VAE of 28x28 images, of which a method may be another."""

    def __init__(self, **methods):
        super().__init__()
        self.layer, self.back = nn.Linear(784, 6), nn.Linear(3, 784)
        for name, method in methods.items():
            setattr(self, name, method)
        self.eval()

    def encode(self, images):
        return self.layer(images.flatten(1)).chunk(2, dim=1)

    def decode(self, latents):
        return self.back(latents).sigmoid().view(-1, 1, 28, 28)


VAE, NET = Coder(), nn.Sequential(nn.Flatten(), nn.Linear(784, 4)).eval()
WRAPPED = "(wrap the model, so that it gives `model"


def lookup(images):
    return vc.latent_mean(VAE, images)


def attack(labels=LABELS, net=NET, images=IMAGES):
    return vc.fgsm(net, images, labels, epsilon=0.1)


def decoded(answer):
    return vc.reconstruct(Coder(decode=lambda latents: answer(torch.rand(len(latents), 1, 28, 28))), IMAGES, **DRAWS)


DRAWS = {"draws": 2, "seed": 0}
ANOTHER_SIZE = (
    "mat1 and mat2 shapes cannot be multiplied (4x1024 and 784x6) (was it made for images of another size or number of"
    " channels? resize them: torch.nn.functional.interpolate(images, size=(height, width)))"
)
# The call that is mistaken, and a part of the message, by what the mistake is.
MISTAKES = {
    "a batch with its labels": (lambda: lookup((IMAGES, LABELS)), "got tuple (a batch with labels? images, labels ="),
    "a class for a VAE": (lambda: vc.kl(vc.VAE, IMAGES), "got the class VAE (make one: VAE(...))"),
    "a class for a classifier": (lambda: attack(net=vc.Classifier), "got the class Classifier (make one: Classifier("),
    "a class for a purifier": (lambda: vc.Purified(vc.Threshold, NET), "got the class Threshold (make one: Threshold("),
    "a class for settings": (lambda: vc.VAE(vc.VAEConfig, (8, 8)), "got the class VAEConfig (make one: VAEConfig(...)"),
    "a column of labels": (lambda: attack(LABELS[:, None]), "got torch.int64 (4, 1) (labels.squeeze(dim=1))"),
    "a column of scores": (lambda: vc.auroc(SCORES[:, None], SCORES), "got shape (4, 1) (a column: inside.squeeze(1))"),
    "a dict of logits": (lambda: attack(net=lambda x: {"logits": NET(x)}), f'got dict {WRAPPED}(images)["logits"]`)'),
    "a list of images": (lambda: lookup([*IMAGES]), "got list (torch.stack(images))"),
    "a list of labels": (
        lambda: attack([0, 1, 2, 3]),
        "labels must be a torch.Tensor; got list (torch.tensor(labels))",
    ),
    "a model output": (
        lambda: attack(net=lambda x: ModelOutput(NET(x))),
        f"got ModelOutput {WRAPPED}(images).logits`)",
    ),
    "a name for images": (lambda: lookup("mnist"), "got str (load_images('mnist').pixels)"),
    "a name for training images": (lambda: vc.fit_vae("mnist", seed=0), "got str (load_images('mnist', 'train')"),
    "a picture": (lambda: lookup(Image.new("L", (28, 28))), "functional.to_tensor(images).unsqueeze(0))"),
    "a set for its pixels": (lambda: lookup(vc.Images(IMAGES, None, "m", "test")), "(give its tensor: images.pixels)"),
    "a tensor for a set": (lambda: vc.fit_vae(IMAGES, seed=0), "got Tensor (Images(train, labels, 'mine', 'train')"),
    "a tuple from decode": (lambda: decoded(lambda images: (images, 0)), f"got tuple {WRAPPED}.decode(latents)[0]`)"),
    "a tuple of logits": (lambda: attack(net=lambda x: (NET(x), x)), f"got tuple {WRAPPED}(images)[0]`)"),
    "a vae for a classifier": (lambda: attack(net=VAE), "got Coder (a VAE? where a function takes both, the VAE comes"),
    "an array for a set": (lambda: vc.fit_vae(IMAGES.numpy(), seed=0), "(Images(torch.from_numpy(train), labels, 'mi"),
    "an array of bytes": (
        lambda: lookup(np.zeros((4, 1, 28, 28), np.uint8)),
        "(torch.from_numpy(images).float() / 255)",
    ),
    "an array of doubles": (lambda: lookup(np.zeros((4, 1, 28, 28))), "got ndarray (torch.from_numpy(images).float())"),
    "an array of images": (lambda: vc.elbo(VAE, IMAGES.numpy(), **DRAWS), "got ndarray (torch.from_numpy(images))"),
    "an array of indices": (lambda: vc.elbo(VAE, IMAGES, indices=np.arange(4), **DRAWS), "(torch.from_numpy(indices))"),
    "an array of labels": (lambda: attack(LABELS.numpy()), "got ndarray (torch.from_numpy(labels))"),
    "another number of channels": (
        lambda: attack(net=nn.Conv2d(3, 4, 28).eval()),
        "Conv2d must take a batch of shape (4, 1, 28, 28), torch.float32 on cpu; got RuntimeError: Given groups=1",
    ),
    "another size of images": (lambda: lookup(torch.rand(4, 1, 32, 32)), ANOTHER_SIZE),
    "bytes": (lambda: lookup((IMAGES * 255).byte()), "got torch.uint8 (bytes 0..255: use images.float() / 255)"),
    "bytes as floats": (lambda: lookup(IMAGES * 255), "(divide bytes by 255: images / 255)"),
    "channels last": (
        lambda: lookup(IMAGES.permute(0, 2, 3, 1)),
        "got (4, 28, 28, 1) (where the channels come last: im",
    ),
    "double weights": (
        lambda: vc.kl(Coder().double(), IMAGES),
        "(make the model float32, as images are: model.float())",
    ),
    "draws of images": (
        lambda: lookup(IMAGES[:, None]),
        "got (4, 1, 1, 28, 28) (draws of each image: images.flatten(0, ",
    ),
    "flat colour images": (lambda: lookup(torch.rand(4, 3072)), "(flat images: images.view(-1, 3, 32, 32); one image"),
    "flat images": (
        lambda: lookup(IMAGES.flatten(1)),
        "got (4, 784) (flat images: images.view(-1, 1, 28, 28); one imag",
    ),
    "float labels": (lambda: attack(LABELS.float()), "got torch.float32 (4,) (labels.long())"),
    "labels for scores": (
        lambda: vc.auroc([0, 1, 0, 1], SCORES),
        "(labels, 1 for outside? give scores[labels == 0], sc",
    ),
    "labels for scores in fpr95": (
        lambda: vc.fpr95(SCORES, LABELS > 1),
        "outside must be scores of the images outside",
    ),
    "labels for what is right": (
        lambda: vc.ece([0.9, 0.8, 0.5], [3, 1, 0]),
        "(labels? whether the answer is right: pred",
    ),
    "logits for probabilities": (lambda: vc.nll(10 * TABLE, LABELS % 3), "(logits? apply softmax first)"),
    "no channels": (lambda: lookup(IMAGES[:, 0]), "got (4, 28, 28) (a missing channel axis is added with images.unsq"),
    "no encode": (
        lambda: vc.kl(NET, IMAGES),
        "got Sequential (it lacks encode and decode: write a class around it tha",
    ),
    "no forward": (
        lambda: attack(net=nn.Module().eval()),
        "the classifier must be a function of images that gives logi",
    ),
    "normalised images": (lambda: lookup(3 * IMAGES - 1), "(undo mean/std normalisation first: images * std + mean)"),
    "one colour image": (
        lambda: lookup(torch.rand(3, 28, 28)),
        "(one image alone: images.unsqueeze(0); a missing chan",
    ),
    "one colour image, channels last": (lambda: lookup(torch.rand(28, 28, 3)), "images.permute(2, 0, 1).unsqueeze(0))"),
    "one image": (lambda: lookup(IMAGES[0]), "got (1, 28, 28) (one image alone: images.unsqueeze(0)"),
    "one image, no channels": (lambda: lookup(IMAGES[0, 0]), "got (28, 28) (one image alone: images[None, None])"),
    "one-hot labels": (lambda: attack(ONE_HOT), "got torch.int64 (4, 4) (one-hot? labels.argmax(dim=1))"),
    "labels from 1": (lambda: vc.brier(TABLE, 1 + torch.arange(4) % 3), "3.0] (labels are counted from 0: labels - 1)"),
    "one-hot labels in brier": (lambda: vc.brier(TABLE, ONE_HOT[:, :3]), "(4, 3) (one-hot? labels.argmax(axis=1))"),
    "one-hot labels of a set": (lambda: vc.Images(IMAGES, ONE_HOT, "m", "test"), "(one-hot? labels.argmax(dim=1))"),
    "probabilities alone": (lambda: vc.brier(TABLE[:, 0], LABELS), "(those of all classes, not of the label or of the"),
    "probabilities for confidence": (
        lambda: vc.ece(TABLE, LABELS > 1),
        "confidence is probabilities.amax(dim=1), and rig",
    ),
    "probabilities for logits": (
        lambda: vc.fit_temperature(TABLE, LABELS % 3),
        "(probabilities? their logarithms are lo",
    ),
    "right before confidence": (
        lambda: vc.ece([True, False], [0.9, 0.8]),
        "(in the other order? what is true or false",
    ),
    "swapped labels and probabilities": (
        lambda: vc.nll(LABELS, TABLE),
        "(in the other order? probabilities come first)",
    ),
    "swapped models and images": (lambda: vc.reconstruct(IMAGES, VAE, **DRAWS), "images must be a torch.Tensor, a num"),
    "transparency": (lambda: lookup(torch.rand(4, 4, 28, 28)), "(transparency is left out: images[:, :3])"),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_a_mistake_is_refused_with_its_remedy(mistake):
    call, message = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "remedied",
    [
        lambda: lookup(IMAGES.flatten(1).view(-1, 1, 28, 28)),
        lambda: lookup(IMAGES[0].unsqueeze(0)),
        lambda: lookup(IMAGES[0, 0][None, None]),
        lambda: lookup(torch.from_numpy(np.zeros((4, 1, 28, 28))).float()),
        lambda: attack(ONE_HOT.argmax(dim=1)),
        lambda: attack(LABELS[:, None].squeeze(dim=1)),
        lambda: vc.fit_temperature(TABLE.log(), LABELS % 3),
        lambda: vc.auroc(SCORES[LABELS < 2], SCORES[LABELS >= 2]),
        lambda: vc.auroc(LABELS % 2, LABELS[:3] % 2),  # alarms of two detectors, not labels
        lambda: vc.auroc(LABELS, LABELS + 1),  # counts
        lambda: vc.ece(TABLE.amax(dim=1), TABLE.argmax(dim=1) == LABELS),
    ],
)
def test_what_a_remedy_makes_is_accepted(remedied):
    remedied()


def test_an_error_of_a_model_that_is_not_about_its_images_is_its_own():
    def fail(_):
        raise RuntimeError("out of cheese")

    with pytest.raises(RuntimeError, match="out of cheese"):
        attack(net=fail)
