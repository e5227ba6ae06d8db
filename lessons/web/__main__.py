"""Build the site: ``python -m lessons.web`` writes pages that open without a server.

The first is ``build/site/html/index.html``.

Lessons run as they are shipped, each in a fresh kernel; what they show is kept in
``build/site/cache`` until afnp or a lesson's own tools change. Warnings are errors, links that lead
nowhere too, and so is whatever a page would fetch from another host. With ``--live`` a JupyterLite
stands beside them, which needs a server: ``python -m http.server -d build/site/html``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lessons.web import links, live

__all__ = ["build", "main"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "build" / "site"
NEEDED = ("sphinx", "myst_nb", "furo", "latex2mathml", "ziamath")


def build(source: Path, out: Path, execute: bool = True) -> int:
    """Run Sphinx on a folder of sources, its warnings being errors; return its exit code."""
    from sphinx.cmd.build import build_main

    os.environ["AFNP_SITE_EXECUTION"] = "cache" if execute else "off"
    cache = out / "cache" / fingerprint()
    os.environ["AFNP_SITE_CACHE"] = str(cache)
    os.environ["AFNP_RECORD"] = str(cache / "states")  # lessons' pictures, at all positions
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    os.environ.pop(
        "MPLBACKEND", None
    )  # pictures belong into the page, whatever other programs are told
    folders = ["-c", str(HERE), "-d", str(out / "doctrees"), str(source), str(out / "html")]
    failed = build_main(["-b", "html", "-q", "-W", "--keep-going", *folders])
    if (cache / "states").is_dir():
        shutil.copytree(cache / "states", out / "html" / "_states", dirs_exist_ok=True)
    return failed


def fingerprint() -> str:
    """Return a digest of all code that lessons may run, besides their own."""
    files = [*(ROOT / "afnp").rglob("*.py"), *(ROOT / "lessons").glob("*.py")]
    files += (ROOT / "lessons" / "exercises").glob("*.py")
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lessons.web", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to (build/site)")
    parser.add_argument(
        "--no-execute", action="store_true", help="show the lessons without results"
    )
    parser.add_argument(
        "--live", action="store_true", help="beside it a JupyterLite, in which the lessons run"
    )
    parser.add_argument(
        "--pyodide",
        type=Path,
        metavar="FOLDER",
        help="with --live: Pyodide's files, to be copied; without, pages fetch them from its host",
    )
    options = parser.parse_args(arguments)
    if options.pyodide and not options.live:
        parser.error("--pyodide is for --live")
    needed = (*NEEDED, *live.NEEDED) if options.live else NEEDED
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        extra = "live" if options.live else "site"
        print(f"the site needs {', '.join(missing)}: pip install -e '.[{extra}]'", file=sys.stderr)
        return 1
    from lessons.web import sources

    start, out = time.perf_counter(), options.out.resolve()
    if (out / "html" / ".buildinfo").is_file():
        shutil.rmtree(out / "html")  # Sphinx's own, perhaps with pages that are no more
    sources.write(out / "afnp-sources", options.live)
    failed = build(out / "afnp-sources", out, execute=not options.no_execute)
    if not (out / "html" / "index.html").is_file():
        return failed or 1
    if options.live:
        kept = out / "cache" / fingerprint() / "trained"
        live.build(out / "afnp-live", out / "html", options.pyodide, kept)
    checked = links.check(out / "html", skipped="live")
    print("\n".join(checked.problems), file=sys.stderr, end="\n" if checked.problems else "")
    print(f"{checked.pages} pages, {checked.links} links, {time.perf_counter() - start:.0f} s")
    print((out / "html" / "index.html").as_uri())
    return 1 if failed or checked.problems else 0


if __name__ == "__main__":
    sys.exit(main())
