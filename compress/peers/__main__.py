"""``python -m compress.peers``: our artifacts beside what other projects make of the same model."""

import sys

from compress.cli.peers import main

if __name__ == "__main__":
    sys.exit(main())
