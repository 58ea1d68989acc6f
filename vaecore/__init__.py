"""Variational autoencoders for robustness: models, many-draw reconstruction, attacks and scores.

Images are float32 tensors (n, c, h, w) in [0, 1], labels int64 (n,). Nothing here prints, plots or touches global
random state; every random number follows from a seed.
"""

from vaecore._adaptive import VAEDetector as VAEDetector
from vaecore._attacks import Attack as Attack
from vaecore._attacks import Sanity as Sanity
from vaecore._attacks import Victim as Victim
from vaecore._attacks import fgsm as fgsm
from vaecore._autoencoder import fit_autoencoder as fit_autoencoder
from vaecore._calibration import Bin as Bin
from vaecore._calibration import BrierParts as BrierParts
from vaecore._calibration import aurc as aurc
from vaecore._calibration import brier_parts as brier_parts
from vaecore._calibration import ece as ece
from vaecore._calibration import fit_temperature as fit_temperature
from vaecore._calibration import reliability as reliability
from vaecore._calibration import risk_coverage as risk_coverage
from vaecore._images import Images as Images
from vaecore._images import letters as letters
from vaecore._images import load_images as load_images
from vaecore._lbfgs import lbfgs as lbfgs
from vaecore._likelihood import likelihood_regret as likelihood_regret
from vaecore._likelihood import log_likelihood as log_likelihood
from vaecore._machine import keep_freed_memory as _keep_freed_memory
from vaecore._metrics import aupr as aupr
from vaecore._metrics import auroc as auroc
from vaecore._metrics import brier as brier
from vaecore._metrics import fpr95 as fpr95
from vaecore._metrics import nll as nll
from vaecore._models import VAE as VAE
from vaecore._models import Autoencoder as Autoencoder
from vaecore._models import Classifier as Classifier
from vaecore._models import ClassifierConfig as ClassifierConfig
from vaecore._models import VAEConfig as VAEConfig
from vaecore._models import load_classifier as load_classifier
from vaecore._models import load_vae as load_vae
from vaecore._outside import OUTSIDE_LOADED as OUTSIDE_LOADED
from vaecore._outside import OUTSIDE_MADE as OUTSIDE_MADE
from vaecore._outside import outside as outside
from vaecore._outside import outside_name as outside_name
from vaecore._pgd import pgd as pgd
from vaecore._purify import BitDepth as BitDepth
from vaecore._purify import Chain as Chain
from vaecore._purify import GaussianBlur as GaussianBlur
from vaecore._purify import LatentSearch as LatentSearch
from vaecore._purify import MedianFilter as MedianFilter
from vaecore._purify import Purified as Purified
from vaecore._purify import Purifier as Purifier
from vaecore._purify import Threshold as Threshold
from vaecore._purify import VAEPurifier as VAEPurifier
from vaecore._reconstruct import distinct_labels as distinct_labels
from vaecore._reconstruct import elbo as elbo
from vaecore._reconstruct import kl as kl
from vaecore._reconstruct import latent_mean as latent_mean
from vaecore._reconstruct import reconstruct as reconstruct
from vaecore._reconstruct import reconstruct_labels as reconstruct_labels
from vaecore._reconstruct import squared_error as squared_error
from vaecore._scores import FittedScores as FittedScores
from vaecore._scores import Score as Score
from vaecore._scores import fit_scores as fit_scores
from vaecore._scores import scores as scores
from vaecore._square import square as square
from vaecore._store import Store as Store
from vaecore._store import StoreWarning as StoreWarning
from vaecore._training import fit_classifier as fit_classifier
from vaecore._training import fit_vae as fit_vae
from vaecore._training import reference_configs as reference_configs

_keep_freed_memory()
