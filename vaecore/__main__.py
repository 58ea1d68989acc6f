"""`python -m vaecore` is the command `vaecore`."""

import sys

from vaecore.suite.cli import main

if __name__ == "__main__":
    sys.exit(main())
