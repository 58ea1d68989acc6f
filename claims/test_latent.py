"""Family E: what an attack does to the VAE's latent distribution, beside noise of the same size.

FGSM and L-BFGS know the classifier and not the VAE. Conditions that are compared share images and draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vaecore.suite import CLEAN, FGSM, LBFGS, SIGN, UNIFORM, auroc, mean

if TYPE_CHECKING:  # they import torch, which tests are collected without
    from vaecore.suite import Conclusion, Study


@pytest.mark.claim("E1")
def test_fgsm_moves_the_posterior_mean_farther_than_noise(study: Study, claim: Conclusion) -> None:
    """FGSM (epsilon {0.5 budget}) moves the posterior mean farther than sign noise of the same size.

    Both per unit of L2 after clipping, which takes more of the noise away than of the attack.
    """
    attacked, noisy = study.paired(FGSM(0.5), SIGN(0.5))
    farther = attacked["latent_shift"] * noisy["l2"] > noisy["latent_shift"] * attacked["l2"]
    claim.conclude(mean(farther))


@pytest.mark.claim("E2a")
def test_fgsm_images_have_a_smaller_kl_term(study: Study, claim: Conclusion) -> None:
    """FGSM images (epsilon {0.5 budget}) have a smaller KL term than clean ones."""
    clean, attacked = study.paired(CLEAN, FGSM(0.5))
    claim.conclude(auroc(-clean["kl"], -attacked["kl"], paired=True))


@pytest.mark.claim("E2b")
def test_lbfgs_images_have_a_smaller_kl_term(study: Study, claim: Conclusion) -> None:
    """L-BFGS images have a smaller KL term than clean ones."""
    clean, attacked = study.paired(CLEAN, LBFGS)
    claim.conclude(auroc(-clean["kl"], -attacked["kl"], paired=True))


@pytest.mark.claim("E3")
def test_sign_noise_has_as_small_a_kl_term(study: Study, claim: Conclusion) -> None:
    """Sign noise of the same size lowers the KL term nearly as much as FGSM (epsilon {0.5 budget}) does."""
    noisy, attacked = study.paired(SIGN(0.5), FGSM(0.5))
    claim.conclude(auroc(noisy["kl"], attacked["kl"], paired=True))


@pytest.mark.claim("E4")
def test_the_elbo_flags_harmless_noise(study: Study, claim: Conclusion) -> None:
    """The ELBO flags harmless noise (uniform, {0.25 budget}) as well: an artefact of the background's
    pixels.
    """
    clean, noisy = study.paired(CLEAN, UNIFORM(0.25))
    claim.conclude(auroc(-clean["elbo"], -noisy["elbo"], paired=True))
