"""Variational autoencoders for robustness: models, many-draw reconstruction, attacks and scores.

Images are float32 tensors (n, c, h, w) in [0, 1], labels int64 (n,). Nothing here prints, plots or changes the global
random state; every random number follows from a seed. Public names are listed in `__init__.pyi` and imported when first
used, so that the command line starts without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
