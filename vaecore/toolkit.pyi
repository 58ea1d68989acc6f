# Names for the suite, the benchmarks and the tests, by room.
# ruff: isort: skip_file

# Digests, files and names; these import no torch.
from ._digest import digest as digest
from ._files import expanded as expanded
from ._files import sweep as sweep
from ._files import user_cache as user_cache
from ._files import write_atomically as write_atomically
from ._import_by_name import attribute as attribute
from ._import_by_name import check_findable as check_findable
from ._import_by_name import is_named as is_named
from ._matplotlib import import_matplotlib as import_matplotlib

# Store.
from ._store import Entry as Entry
from ._store import read_tensors as read_tensors
from ._store import Tensors as Tensors
from ._store import write_tensors as write_tensors

# Random numbers.
from ._noise import image_indices as image_indices
from ._noise import normal as normal
from ._noise import normal_of as normal_of
from ._noise import philox as philox
from ._noise import seed_for as seed_for
from ._noise import signs as signs
from ._noise import uniform as uniform
from ._noise import words as words

# Calls of users' models.
from ._calls import ask as ask
from ._calls import check_independent as check_independent
from ._calls import to_evaluation as to_evaluation

# Checks, precision and batch sizes.
from ._check import check_logits as check_logits
from ._check import describe_shape as describe_shape
from ._precision import check_precision as check_precision
from ._precision import computing_in as computing_in
from ._precision import Precision as Precision
from ._batch_sizes import answers as answers
from ._batch_sizes import fit_at_once as fit_at_once

# Data.
from .data._augment import distort as distort
from .data._images import data_root as data_root
from .data._images import images_of as images_of
from .data._images import is_available as is_available
from .data._images import load_whole as load_whole
from .data._images import npz_of as npz_of
from .data._images import on_black as on_black
from .data._images import probe as probe
from .data._names import check_source as check_source
from .data._names import EMBEDDED as EMBEDDED
from .data._names import LOADED_SHAPES as LOADED_SHAPES
from .data._names import TORCHVISION as TORCHVISION
from .data._names import is_made as is_made
from .data._outside import PATCHES_ALONG_A_SIDE as PATCHES_ALONG_A_SIDE

# Remedies of usual mistakes.
from ._remedies import from_one as from_one

# Models and their training.
from .models._kinds import AnyClassifierConfig as AnyClassifierConfig
from .models._kinds import AnyVAEConfig as AnyVAEConfig
from .models._kinds import classifier_of as classifier_of
from .models._kinds import vae_of as vae_of
from .models._networks import Classify as Classify
from .models._training import augment as augment
from .models._training import default_device as default_device
from .models._training import Progress as Progress
from .models._training import seeded as seeded

# Reconstruction and likelihood.
from .reconstruction._decode import check_reconstructions as check_reconstructions
from .reconstruction._decode import decode_draws as decode_draws
from .reconstruction._decode import kl_of_posterior as kl_of_posterior
from .reconstruction._decode import posterior as posterior
from .reconstruction._stream import Rows as Rows
from .reconstruction._likelihood import checked_density as checked_density
from .reconstruction._likelihood import decoder_density as decoder_density

# Attacks.
from .attacks._attack import class_loss as class_loss
from .attacks._attack import flag_warnings as flag_warnings
from .attacks._attack import Norm as Norm
from .attacks._attack import outcome as outcome

# Anomaly scores.
from .scoring._features import Features as Features
from .scoring._features import Settings as Settings
from .scoring._scores import lacking_needs as lacking_needs
