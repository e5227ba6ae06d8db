"""Run the benchmark as ``python -m figures.bench``."""

import sys

from figures.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
