"""The suite: what judges claims. Its public names are for tests of claims, one's own too (docs/own-claims.md).

Names are listed in `__init__.pyi` and imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
