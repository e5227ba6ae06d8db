"""Run the benchmark as ``python -m afnp.bench``."""

import sys

from afnp.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
