"""A VAE and a classifier of 8x8 images that are trained in no time, for whole runs that take seconds."""

import torch
from torch import nn
from torch.nn.functional import one_hot


class TinyVAE(nn.Module):
    """Encodes by principal components, and decodes by them again."""

    def __init__(self, seed):
        super().__init__()
        self.axes = nn.Parameter(torch.randn(64, 6, generator=torch.Generator().manual_seed(seed)) / 8)
        self.centre = nn.Parameter(torch.full((64,), 0.5))

    def fit(self, images):
        """Take the components of the training images."""
        pixels = images.pixels.flatten(1)
        axes = torch.linalg.svd(pixels - pixels.mean(dim=0), full_matrices=False)[2][:6].T
        self.axes.data, self.centre.data = axes.contiguous(), pixels.mean(dim=0)

    def encode(self, images):
        """Mean and log-variance, (n, 6)."""
        mean = (images.flatten(1) - self.centre) @ self.axes
        return mean, torch.full_like(mean, -2.0)

    def decode(self, latents):
        """Images (n, 1, 8, 8)."""
        return (6 * (latents @ self.axes.T + self.centre - 0.5)).sigmoid().view(-1, 1, 8, 8)


class TinyClassifier(nn.Module):
    """A linear classifier."""

    def __init__(self, seed):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, 10, generator=torch.Generator().manual_seed(100 + seed)))
        self.bias = nn.Parameter(torch.zeros(10))

    def fit(self, images):
        """Take the mean image of each class as its weight."""
        member = one_hot(images.labels, 10).float()
        means = (images.pixels.flatten(1).T @ member) / member.sum(dim=0)
        self.weight.data, self.bias.data = 2 * means, -means.square().sum(dim=0)

    def forward(self, images):
        """Logits (n, 10)."""
        return images.flatten(1) @ self.weight + self.bias
