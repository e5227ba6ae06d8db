"""Run the benchmark as ``python -m figures.bench``, that of imported flows with ``imported``."""

import sys

from figures.bench import command, imported

if __name__ == "__main__":
    if sys.argv[1:2] == ["imported"]:
        sys.exit(imported.main(sys.argv[2:]))
    sys.exit(command.main())
