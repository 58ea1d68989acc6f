# Public names, by room.
# ruff: isort: skip_file

# Data.
from .data._images import Images as Images
from .data._images import letters as letters
from .data._images import load_images as load_images
from .data._outside import outside as outside
from .data._names import OUTSIDE_LOADED as OUTSIDE_LOADED
from .data._names import OUTSIDE_MADE as OUTSIDE_MADE
from .data._names import outside_name as outside_name

# Models and their training.
from .models._networks import Autoencoder as Autoencoder
from .models._networks import Classifier as Classifier
from .models._networks import ClassifierConfig as ClassifierConfig
from .models._colour import ConvVAE as ConvVAE
from .models._colour import ConvVAEConfig as ConvVAEConfig
from .models._colour import ResidualClassifier as ResidualClassifier
from .models._colour import ResidualConfig as ResidualConfig
from .models._kinds import load_classifier as load_classifier
from .models._kinds import load_vae as load_vae
from .models._networks import VAE as VAE
from .models._networks import VAEConfig as VAEConfig
from .models._training import fit_classifier as fit_classifier
from .models._training import fit_vae as fit_vae
from .models._training import reference_configs as reference_configs
from .models._autoencoder import fit_autoencoder as fit_autoencoder
from .models._robust import fit_robust as fit_robust
from .models._hierarchical import fit_hierarchical_vae as fit_hierarchical_vae
from .models._hierarchical import hierarchical_config as hierarchical_config
from .models._hierarchical import HierarchicalVAE as HierarchicalVAE
from .models._hierarchical import HierarchicalVAEConfig as HierarchicalVAEConfig
from .models._hierarchical import load_hierarchical_vae as load_hierarchical_vae

# Reconstruction and likelihood.
from .reconstruction._reconstruct import distinct_labels as distinct_labels
from .reconstruction._reconstruct import reconstruct as reconstruct
from .reconstruction._reconstruct import reconstruct_labels as reconstruct_labels
from .reconstruction._decode import kl as kl
from .reconstruction._decode import latent_mean as latent_mean
from .reconstruction._decode import squared_error as squared_error
from .reconstruction._likelihood import elbo as elbo
from .reconstruction._likelihood import likelihood_regret as likelihood_regret
from .reconstruction._likelihood import log_likelihood as log_likelihood
from .models._density import discretised_logistic as discretised_logistic
from .reconstruction._hierarchy import likelihood_ratio as likelihood_ratio
from .reconstruction._hierarchy import partial_elbo as partial_elbo

# Attacks.
from .attacks._attack import Attack as Attack
from .attacks._attack import Sanity as Sanity
from .attacks._attack import Victim as Victim
from .attacks._fgsm import fgsm as fgsm
from .attacks._pgd import pgd as pgd
from .attacks._square import square as square
from .attacks._lbfgs import lbfgs as lbfgs
from .attacks._worst_case import worst_case as worst_case
from .attacks._flips import flips as flips
from .attacks._detector import VAEDetector as VAEDetector

# Anomaly scores.
from .scoring._scores import fit_scores as fit_scores
from .scoring._scores import FittedScores as FittedScores
from .scoring._scores import Score as Score
from .scoring._scores import scores as scores
from .scoring._detector import ScoreDetector as ScoreDetector

# Purifiers.
from ._purifiers import BitDepth as BitDepth
from ._purifiers import Chain as Chain
from ._purifiers import GaussianBlur as GaussianBlur
from ._purifiers import JPEG as JPEG
from ._purifiers import LatentSearch as LatentSearch
from ._purifiers import MedianFilter as MedianFilter
from ._purifiers import Purified as Purified
from ._purifiers import Purifier as Purifier
from ._purifiers import Threshold as Threshold
from ._purifiers import VAEPurifier as VAEPurifier
from ._smoothing import Certificate as Certificate
from ._smoothing import certify as certify

# Metrics and calibration.
from ._metrics import aupr as aupr
from ._metrics import auroc as auroc
from ._metrics import brier as brier
from ._metrics import conformal_p_values as conformal_p_values
from ._metrics import fpr95 as fpr95
from ._metrics import nll as nll
from ._calibration import aurc as aurc
from ._calibration import Bin as Bin
from ._calibration import brier_parts as brier_parts
from ._calibration import BrierParts as BrierParts
from ._calibration import calibrated_ece as calibrated_ece
from ._calibration import ece as ece
from ._calibration import fit_temperature as fit_temperature
from ._calibration import reliability as reliability
from ._calibration import risk_coverage as risk_coverage

# Store and memory.
from ._store import Store as Store
from ._store import StoreWarning as StoreWarning
from ._batch_sizes import keep_freed_memory as keep_freed_memory

from ._version import __version__ as __version__

# For type checkers; the same names in order.
__all__ = [
    "JPEG",
    "OUTSIDE_LOADED",
    "OUTSIDE_MADE",
    "VAE",
    "Attack",
    "Autoencoder",
    "Bin",
    "BitDepth",
    "BrierParts",
    "Certificate",
    "Chain",
    "Classifier",
    "ClassifierConfig",
    "ConvVAE",
    "ConvVAEConfig",
    "FittedScores",
    "GaussianBlur",
    "HierarchicalVAE",
    "HierarchicalVAEConfig",
    "Images",
    "LatentSearch",
    "MedianFilter",
    "Purified",
    "Purifier",
    "ResidualClassifier",
    "ResidualConfig",
    "Sanity",
    "Score",
    "ScoreDetector",
    "Store",
    "StoreWarning",
    "Threshold",
    "VAEConfig",
    "VAEDetector",
    "VAEPurifier",
    "Victim",
    "__version__",
    "aupr",
    "aurc",
    "auroc",
    "brier",
    "brier_parts",
    "calibrated_ece",
    "certify",
    "conformal_p_values",
    "discretised_logistic",
    "distinct_labels",
    "ece",
    "elbo",
    "fgsm",
    "fit_autoencoder",
    "fit_classifier",
    "fit_hierarchical_vae",
    "fit_robust",
    "fit_scores",
    "fit_temperature",
    "fit_vae",
    "flips",
    "fpr95",
    "hierarchical_config",
    "keep_freed_memory",
    "kl",
    "latent_mean",
    "lbfgs",
    "letters",
    "likelihood_ratio",
    "likelihood_regret",
    "load_classifier",
    "load_hierarchical_vae",
    "load_images",
    "load_vae",
    "log_likelihood",
    "nll",
    "outside",
    "outside_name",
    "partial_elbo",
    "pgd",
    "reconstruct",
    "reconstruct_labels",
    "reference_configs",
    "reliability",
    "risk_coverage",
    "scores",
    "square",
    "squared_error",
    "worst_case",
]
