"""The contact sheet: a few test images under several conditions, and what each draw of the VAE makes of them."""

import torch

from vaecore import Autoencoder, reconstruct
from vaecore.suite.study.conditions import CLEAN, FGSM, JOINT, LBFGS, SIGN
from vaecore.suite.study.perturbations import reconstructions_seed
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Precision, Tensors, answers, ask

SHEET = (CLEAN, FGSM(1), LBFGS, SIGN(1), JOINT(1.5))
IMAGES = 3  # the first that the study looks at, whatever becomes of them


def sheet_tasks(setup: Setup) -> list[Task]:
    """The images of the first run under each condition of SHEET, and their draws, which are those of the evidence."""
    rows = (0, min(IMAGES, len(setup.indices)))
    return [
        Task(
            draw_sheet,
            {
                "seed": setup.seeds[0],
                "draws": setup.protocol.draws,
                "precision": setup.precision,
                "device": str(setup.device),
            },
            {
                "shard": setup.shard(rows),
                "attack": setup.attack(condition, 0, rows),
                "vae": setup.model("vae", 0),
                "classifier": setup.model("classifier", 0),
            },
            "contact sheet",
            "contact sheet",
        )
        for condition in SHEET
    ]


def draw_sheet(
    seed: int,
    draws: int,
    precision: Precision,
    device: str,
    shard: Tensors,
    attack: Tensors,
    vae: Autoencoder,
    classifier: Classify,
) -> Tensors:
    """The sheet's images and what models make of them; a task.

    images, and draws: their reconstructions; label, draw_label: what each is given. success: of the attack.
    """
    images, indices = attack["images"].to(device), shard["indices"].to(device)
    own_seed = reconstructions_seed(seed)
    drawn = reconstruct(vae, images, draws=draws, seed=own_seed, indices=indices, precision=precision)
    with torch.no_grad():
        label = ask(classifier, images).argmax(dim=1)
        draw_label = answers(classifier, drawn.flatten(0, 1)).argmax(dim=1).view(drawn.shape[:2])
    columns = {"images": images, "draws": drawn, "label": label, "draw_label": draw_label}
    return {name: column.cpu() for name, column in columns.items()} | {"success": attack["success"]}
