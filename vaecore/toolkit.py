"""Names that the suite, the benchmarks and the tests use beside the public ones; they may change at any time.

They are listed in `toolkit.pyi` and imported when first used. Each is documented where it is defined.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("vaecore", __file__)
