"""``python -m clearway``: the same as the ``clearway`` command."""

import sys

from clearway.cli import main

if __name__ == "__main__":
    sys.exit(main())
