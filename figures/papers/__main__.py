"""Train rows of the papers' tables: ``python -m figures.papers power --data DIR``."""

import sys

from afnp.progress import until_unread
from figures.papers.command import main

if __name__ == "__main__":
    sys.exit(until_unread(main))
