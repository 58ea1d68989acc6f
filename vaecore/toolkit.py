"""What the suite, the benchmarks and the tests take from the library beside its public names; it may change any time.

Names are listed in `toolkit.pyi`, by room, and imported when first used. Each is documented where it is defined.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub("vaecore", __file__)
