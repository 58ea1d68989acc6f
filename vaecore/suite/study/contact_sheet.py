"""The contact sheet: a few test images under several conditions, and what each draw of the VAE makes of them."""

import sys
from typing import TYPE_CHECKING, Any

import torch

from vaecore._batch_sizes import answers
from vaecore._noise import seed_for
from vaecore._store import Tensors, digest, source_digest
from vaecore.reconstruction._reconstruct import reconstruct
from vaecore.suite.packing import pack
from vaecore.suite.study.draws import CLEAN, DRAWS, JOINT, LBFGS, perturb
from vaecore.suite.study.study import EVIDENCE_STAGE

if TYPE_CHECKING:
    from vaecore.suite.study.study import Study

SHEET = (CLEAN, "fgsm-0.2", LBFGS, "sign-0.2", JOINT)
IMAGES = 3  # the first that the study looks at, whatever becomes of them


def gather(study: "Study") -> dict[str, Any]:
    """What the sheet shows, as plain values: for the first run and each condition the images and their draws.

    Images and draws are those of the evidence. labels: of the images. For each condition: pixels of the images and the
    label each is given; draws, their reconstructions, image by image, and the label that each of these is given;
    success: whether the attack reached its aim.
    """
    indices = study.indices[:IMAGES]
    labels = study.test.labels
    assert labels is not None
    rows = []
    with study.timed("evidence"):
        for condition in SHEET:
            found = _of_condition(study, condition, indices)
            rows.append(
                {
                    "condition": condition,
                    "pixels": pack(found["images"]),
                    "label": found["label"].tolist(),
                    "success": found["success"].tolist(),
                    "draws": pack(found["draws"].flatten(0, 1)),
                    "draw_label": found["draw_label"].tolist(),
                }
            )
    return {"labels": labels[indices].tolist(), "indices": indices.tolist(), "rows": rows}


def _of_condition(study: "Study", condition: str, indices: torch.Tensor) -> Tensors:
    run = study.run(0)
    known = study.shard(run, indices).known
    models = (run.vae_digest, run.classifier_digest)
    key = digest("contact sheet", condition, *models, *known, _STAGE, study.device.type, study.precision)

    def compute() -> Tensors:
        shard = study.shard(run, indices).to(study.device)
        attack = perturb(run.vae, run.classifier, shard, condition)
        seed = seed_for("reconstructions", run.seed)
        told: dict[str, Any] = {"indices": shard.indices, "precision": study.precision}
        draws = reconstruct(run.vae, attack.images, draws=DRAWS, seed=seed, **told)
        with torch.no_grad():
            label = run.classifier(attack.images).argmax(dim=1)
            draw_label = answers(run.classifier, draws.flatten(0, 1)).argmax(dim=1).view(draws.shape[:2])
        found = {"images": attack.images, "draws": draws, "label": label, "draw_label": draw_label}
        return {name: column.cpu() for name, column in (found | {"success": attack.success}).items()}

    return study.store.get("evidence", key, compute)


_STAGE = digest(EVIDENCE_STAGE, source_digest(sys.modules[__name__]))
