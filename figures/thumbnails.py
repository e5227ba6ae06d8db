"""Small pictures of all figures, kept in git for the README and for a site made of a fresh clone.

``python -m figures --gallery`` makes them of what ``python -m figures`` has drawn.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

from afnp.atomic import write_bytes

__all__ = ["GALLERY", "MOST", "keep", "small"]

GALLERY = Path(__file__).resolve().parent / "gallery"

MOST = 60_000
"""Bytes a picture."""

FRONT, FRONT_MOST = "32_density_and_samples", 100_000
"""The README's first picture, and what it may take."""

SIZES = [
    (1200, 128),
    (900, 64),
    (900, 32),
    (800, 32),
    (700, 32),
    (700, 16),
    (600, 16),
    (500, 16),
    (400, 16),
]
"""Width in pixels and number of colours, best first."""


def keep(names: Sequence[str], out: Path, gallery: Path = GALLERY) -> list[str]:
    """Write a small picture of each figure that ``out`` holds; return the names of the others.

    Pictures that were drawn with ``--quick`` do not count: they show too little data.
    """
    missing = []
    gallery.mkdir(parents=True, exist_ok=True)
    for name in names:
        picture = out / f"{name}.png"
        record = out / f"{name}.json"
        if not record.is_file() or json.loads(record.read_text(encoding="utf-8"))["quick"]:
            missing.append(name)
            continue
        write_bytes(gallery / picture.name, small(picture))
    return missing


def small(path: Path) -> bytes:
    """Return a picture as PNG, as large and as colourful as its bytes allow."""
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGB")
    content = b""
    most = FRONT_MOST if path.stem == FRONT else MOST
    for width, colors in SIZES:
        height = round(picture.height * width / picture.width)
        resized = picture.resize((width, height), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        few = resized.quantize(  # the octree's fewest colours leave out those of a few marks
            colors, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE
        )
        few.save(buffer, "PNG", optimize=True)
        content = buffer.getvalue()
        if len(content) <= most:
            break
    return content
