"""Run the command line as ``python -m afnp``."""

import sys

from afnp.cli import main

sys.exit(main())
