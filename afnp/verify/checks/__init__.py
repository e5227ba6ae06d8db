"""The checks, a file each, named as in the report: a new one is a new file here, and a mutant.

A check is a function of a subject and a generator of random numbers that returns a Result; the
decorator :func:`afnp.verify.results.check` gives it its code and enters it into ``CHECKS``. Every
file of this folder is imported when the folder is.
"""

import importlib
import pkgutil

from afnp.verify.results import CHECKS as FOUND
from afnp.verify.results import Check

__all__ = ["CHECKS"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def _place(item: tuple[str, Check]) -> tuple[int, str]:
    """Return where a check stands in the report: by the number in its code."""
    name, check = item
    return int(check.code[1:]), name  # type: ignore[attr-defined]


CHECKS: dict[str, Check] = dict(sorted(FOUND.items(), key=_place))
"""Every check by its name, in the order of the report."""
