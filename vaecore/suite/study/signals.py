"""What judges of confidence and alarms go by: a classifier's logits, and scores of the VAE's reconstructions.

On images held out from training, judges are fitted and alarms get their thresholds: nothing is chosen on test images.
"""

from collections.abc import Sequence

import numpy as np
import torch

from vaecore import Autoencoder, scores
from vaecore.suite.study.kinds import ALARMS, FALSE_ALARMS, MAGNET
from vaecore.suite.study.plain import ROUNDING, SEARCH, latent_search, plain_purifiers
from vaecore.toolkit import Classify, Features, Settings, Tensors, answers, seed_for

SIGNALS = ("mse", "relative-mse", "kl", "disagreement")  # scores of vaecore; all are above 0
_CHUNK = 250


def look(
    seed: int,
    role: str,
    draws: int,
    device: str,
    searched: int,
    *,
    background: bool,
    shard: Tensors,
    attack: Tensors | None,
    vae: Autoencoder,
    classifier: Classify,
) -> Tensors:
    """What a run's models say of images, (n, ...); a task.

    success: an attack reached its aim. logits, mean (the logarithm of the mean softmax over draws), and the logits
    behind each of ROUNDING, the threshold only where the images have a background: (n, classes). Those behind SEARCH:
    (searched, classes), of the first images. Each of SIGNALS and MAGNET: (n,). role: of the images; each has draws of
    its own.
    """
    images, indices = shard["pixels"] if attack is None else attack["images"], shard["indices"]
    purifiers = plain_purifiers(background=background)
    rounding = {name: purifiers[name] for name in ROUNDING if name in purifiers}
    search = latent_search(vae)
    settings, parts = Settings(draws, 1, 1, 1, 1, 1), list[Tensors]()
    with torch.no_grad():
        for some in zip(torch.split(images, _CHUNK), torch.split(indices, _CHUNK), strict=True):
            rows, at = (value.to(device) for value in some)
            own_seed = seed_for(f"decisions/{role}", seed)
            features = Features(vae, classifier, rows, at, seed=own_seed, settings=settings, of_draws={"logits"})
            mean = features.drawn_logits.double().log_softmax(dim=2).logsumexp(dim=1) - np.log(draws)
            part = {"logits": features.logits, "mean": mean}
            part |= {name: answers(classifier, purifier(rows)) for name, purifier in rounding.items()}
            part |= {name: scores[name].look(features) for name in (*SIGNALS, *MAGNET)}
            if (left := searched - _CHUNK * len(parts)) > 0:
                part[SEARCH] = answers(classifier, search.views(rows[:left], at[:left], own_seed)[:, 0])
            parts.append({name: value.cpu() for name, value in part.items()})
    columns = joined(parts)
    every = torch.ones(len(images), dtype=torch.bool)
    return columns | {"success": every if attack is None else attack["success"]}


def joined(parts: Sequence[Tensors]) -> Tensors:
    """What is said of images, part after part; later parts may lack what is said of the first images alone."""
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in parts[0]}


def thresholds(held: Tensors) -> Tensors:
    """For each alarm the least thresholds, (rates,), that at most these shares of images held out exceed; a task.

    held: what `look` gives for them.
    """
    doubt = 1 - held["logits"].double().softmax(dim=1).amax(dim=1)
    values = {name: held[name].double() for name in (*ALARMS, *MAGNET) if name in held} | {"max-softmax": doubt}
    levels = [1 - rate for rate in FALSE_ALARMS]
    return {
        name: torch.from_numpy(np.quantile(value.numpy(), levels, method="inverted_cdf"))
        for name, value in values.items()
    }
