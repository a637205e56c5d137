"""``python -m compress.benchmark``: measure artifacts side by side."""

import sys

from compress.cli.bench import main

if __name__ == "__main__":
    sys.exit(main())
