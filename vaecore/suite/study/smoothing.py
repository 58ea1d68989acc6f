"""Family D, certificates: the L2 radius within which smoothing guarantees the right label, with and without the VAE.

Threat model. None is needed: a certificate holds against every change that is smaller than its radius, whatever the
attacker knows. It is one of the classifier under Gaussian noise, not of the classifier itself.
"""

from collections.abc import Sequence

from vaecore import Autoencoder, Purified, VAEPurifier, certify
from vaecore.suite.study.cleaning import NONE
from vaecore.suite.study.conditions import Condition
from vaecore.suite.study.evidence import Evidence
from vaecore.suite.study.setup import Setup
from vaecore.suite.study.tables import Columns, stack
from vaecore.suite.study.tasks import Task
from vaecore.toolkit import Classify, Tensors, seed_for

CLEANED = "vae-posterior-mean"
DRAWS = 400  # with which a radius can reach 2.1 standard deviations of the noise
SIGMAS = (0.25, 0.5)
RADII = (0.0, 0.25, 0.5, 0.75, 1.0)  # that the report shows


class Certificates(Evidence):
    """Evidence from smoothing (`SMOOTHED(sigma)`)."""

    def count(self, setup: Setup, condition: Condition) -> int:  # noqa: ARG002
        """As many as trials of attacks take."""
        return min(setup.protocol.trial_images, len(setup.test))

    def make_tasks(self, setup: Setup, condition: Condition) -> list[Task]:
        """One task for each run."""
        rows = (0, self.count(setup, condition))
        return [
            Task(
                certificates,
                {"sigma": setup.protocol.size(condition), "seed": seed, "device": str(setup.device)},
                {
                    "shard": setup.shard(rows),
                    "vae": setup.model("vae", number),
                    "classifier": setup.model("classifier", number),
                },
                "cleaning",
                f"certificates, {setup.protocol.name(condition)}",
            )
            for number, seed in enumerate(setup.seeds)
        ]

    def columns(self, setup: Setup, condition: Condition, results: Sequence[Tensors]) -> Columns:  # noqa: ARG002
        """Columns as `certificates` describes them."""
        return stack(results)


CERTIFICATES = Certificates()


def certificates(
    sigma: float, seed: int, device: str, shard: Tensors, vae: Autoencoder, classifier: Classify
) -> Tensors:
    """The certified radius (n,) of the classifier, NONE, and of it behind the VAE, CLEANED; a task.

    -1 where the smoothed label is wrong or there is none, so that every right one has a larger radius.
    """
    pixels, labels, indices = (shard[name].to(device) for name in ("pixels", "labels", "indices"))
    columns = {}
    for name, model in ((NONE, classifier), (CLEANED, Purified(VAEPurifier(vae), classifier))):
        found = certify(model, pixels, sigma=sigma, seed=seed_for("certify", seed), draws=DRAWS, indices=indices)
        columns[name] = found.radius.where(found.label == labels.cpu(), -1.0)
    return columns
