"""``python -m gpucube`` is the command ``gpucube``."""

import sys

from gpucube.cli import main

if __name__ == "__main__":
    sys.exit(main())
