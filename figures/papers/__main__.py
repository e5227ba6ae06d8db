"""Train rows of the papers' tables: ``python -m figures.papers power --data DIR``."""

import sys

from figures.papers.command import main

if __name__ == "__main__":
    sys.exit(main())
