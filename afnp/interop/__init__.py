"""Doors to other people's tools: each is opened when it is first named, and needs its own extra.

What one asks for stands here, too: ``afnp.interop.from_zuko`` is that of
:mod:`afnp.interop.zuko`. ``formats`` alone is no door: ``afnp.save`` and ``afnp.load`` are its, and
it opens the one to safetensors for a file of that name.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Any

DOORS = {
    "ConditionalFlow": "sklearn",
    "FlowDensity": "sklearn",
    "FlowOutlierDetector": "sklearn",
    "from_flowjax": "flowjax",
    "from_nflows": "nflows",
    "from_normflows": "normflows",
    "from_sbi": "sbi",
    "from_zuko": "zuko",
    "to_frame": "frames",
    "to_onnx": "onnx",
    "to_zuko": "zuko",
}
"""The module that has a name. Modules are named as their extras, but for ``frames``."""

__all__ = list(DOORS)


def __getattr__(name: str) -> Any:
    """Open a door when it, or what lies behind it, is first named."""
    door = DOORS.get(name, name)
    if door.startswith("_") or not importlib.util.find_spec(f"{__name__}.{door}"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{door}")
    except ModuleNotFoundError as missing:
        what = "pandas" if door == "frames" else f"'afnp[{door}]'"
        raise ImportError(
            f"{__name__}.{name} needs {missing.name}, which is not installed: pip install {what}"
        ) from missing
    return module if door == name else getattr(module, name)


def __dir__() -> list[str]:
    """List what is there, and what is imported when it is named."""
    return sorted({*globals(), *__all__, *(part.name for part in pkgutil.iter_modules(__path__))})
