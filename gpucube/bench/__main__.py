"""``python -m gpucube.bench``."""

import sys

from gpucube.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
