"""Run the benchmark as ``python -m figures.bench``; those of imported flows by their names."""

import sys

from afnp.progress import until_unread
from figures.bench import command, imported, posteriors

OTHERS = {"imported": imported.main, "posteriors": posteriors.main}

if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in OTHERS:
        sys.exit(until_unread(lambda: OTHERS[sys.argv[1]](sys.argv[2:])))
    sys.exit(until_unread(command.main))
