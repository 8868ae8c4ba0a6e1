"""The command line, as `python -m alongside`."""

import sys

from ._command import main

if __name__ == "__main__":
    sys.exit(main())
