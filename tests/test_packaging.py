"""What a user's machine meets: a quick import, parts found when named,
and nothing needed but NumPy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest

import afnp

ROOT = Path(__file__).parents[1]


def python(code, folder, **environment):
    """Run code in a fresh interpreter that finds this tree; return what it printed."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- import afnp ---------------------------------------------------------------------------------

HEAVY = ("numba", "llvmlite", "matplotlib", "tqdm", "pandas", "sklearn", "scipy", "torch", "dask")

SECONDS = """
import sys, time
import numpy
start = time.process_time()
import afnp
print(time.process_time() - start)
print(*(name for name in {heavy} if name in sys.modules))
"""


def test_the_import_is_quick_and_brings_nothing_heavy(tmp_path):
    """Processor seconds beside NumPy, the best of three: other programs do not count."""
    printed = [python(SECONDS.format(heavy=HEAVY), tmp_path).split("\n") for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in printed) < 0.2
    assert all(heavy == "" for _, heavy, *_ in printed)


def test_every_part_is_found_when_it_is_named(tmp_path):
    """All folders and public files of the package, after nothing but ``import afnp``."""
    parts = {path.stem for path in (ROOT / "afnp").glob("*.py")}
    parts |= {path.parent.name for path in (ROOT / "afnp").glob("*/__init__.py")}
    parts -= {"__init__", "__main__", "cli"}
    code = "import afnp\nfor name in {!r}: print(getattr(afnp, name).__name__)"
    found = python(code.format(sorted(parts)), tmp_path).split()
    assert found == [f"afnp.{name}" for name in sorted(parts)]
    assert parts <= set(dir(afnp))


def test_what_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'afnp' has no attribute 'flwo'"):
        afnp.flwo  # noqa: B018
    assert not hasattr(afnp, "__wrapped__")


def test_the_version_is_one():
    for name in ("CHANGELOG.md", "CITATION.cff"):
        assert afnp.__version__ in (ROOT / name).read_text(encoding="utf-8")
    assert "version = attr: afnp.__version__" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


# ---- what is built and installed -----------------------------------------------------------------


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """An sdist, and the wheel made from it: in a folder."""
    for module in ("build", "setuptools"):
        pytest.importorskip(module, reason=f"NOTHING WAS BUILT: pip install {module}")
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], ROOT)
    return folder


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """A function that makes a virtual environment with this one's packages, but without afnp."""

    def make(name, *installed):
        home = tmp_path_factory.mktemp(name)
        run([sys.executable, "-m", "venv", "--without-pip", home], home)
        target = sysconfig.get_path("purelib", "venv", {"base": home, "platbase": home})
        Path(target, "beside.pth").write_text(sysconfig.get_path("purelib"))
        (home / "share").mkdir(exist_ok=True)
        (home / "share/jupyter").symlink_to(Path(sysconfig.get_path("data")) / "share/jupyter")
        pip = [sys.executable, "-m", "pip", "--python", home / "bin/python", "install", "-q"]
        if installed:
            run([*pip, "--no-deps", "--no-build-isolation", *installed], home)
        return home

    return make


def run(command, folder, **variables):
    """Run a command with nothing of this tree on the path; return what it printed."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**kept, "MPLBACKEND": "Agg", **variables},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_folder_of_a_clone_does_not_shadow_an_editable_install(environment, tmp_path):
    """A clone is called like the package that lies in it."""
    home = environment("editable", "-e", ROOT)
    (tmp_path / "afnp").symlink_to(ROOT)
    code = "import afnp; print(afnp.maf.__name__, afnp.verify.check_flow.__name__)"
    assert run([home / "bin/python", "-c", code], tmp_path) == "maf check_flow\n"


@pytest.mark.slow
def test_a_wheel_brings_the_course_and_the_figures(built, environment, tmp_path):
    home = environment("wheel", next(built.glob("*.whl")))
    where = "import afnp, sys; print(afnp.__file__.startswith(sys.prefix), afnp.__version__)"
    printed = run([home / "bin/python", "-c", where], tmp_path)
    assert printed == f"True {afnp.__version__}\n"
    assert f"afnp {afnp.__version__}" in run([home / "bin/afnp", "--version"], tmp_path)

    run([home / "bin/afnp", "lessons", "--copy"], tmp_path)
    notebook = tmp_path / "afnp-lessons" / "01_the_chain_rule.ipynb"
    shipped = ROOT / "lessons" / notebook.name
    assert notebook.read_bytes() == shipped.read_bytes()
    assert "01  the chain rule" in run([home / "bin/afnp", "lessons", "--progress"], tmp_path)
    check = "import checker; checker.Lesson(1).summary()"
    assert "0 of " in run([home / "bin/python", "-c", check], notebook.parent)

    assert "01_chain_rule " in run([home / "bin/afnp", "figures", "--list"], tmp_path)
    run([home / "bin/afnp", "figures", "chain_rule", "--quick"], tmp_path)
    assert (tmp_path / "afnp-figures" / "01_chain_rule.png").read_bytes()[1:4] == b"PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["afnp-figures", "afnp-lessons"]


TREE = "house readme packaging lessons museum masks".split()
"""Tests that read the tree, and some that do not."""


@pytest.mark.slow
def test_an_sdist_is_a_whole_tree_whose_tests_run(built, environment, tmp_path):
    """It holds what is tracked, byte for byte; its tests are all collected, those of TREE run."""
    run([sys.executable, "-m", "tarfile", "-e", next(built.glob("*.tar.gz"))], tmp_path)
    (tree,) = tmp_path.iterdir()
    tracked = run(["git", "ls-files"], ROOT).split() if (ROOT / ".git").exists() else []
    absent = [name for name in tracked if not (tree / name).exists()]
    assert absent in ([], [".ci/run", ".gitignore"])
    for name in set(tracked) - set(absent) - {"setup.cfg"}:
        assert (tree / name).read_bytes() == (ROOT / name).read_bytes(), name
    home = environment("sdist", "-e", tree)
    tests = [home / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    assert " error" not in run([*tests, "--collect-only", "-n", "0"], tree).splitlines()[-1]
    run([*tests, *(f"tests/test_{name}.py" for name in TREE)], tree)


@pytest.mark.slow
def test_jupyter_shows_the_course_without_news_and_without_its_tools(tmp_path):
    """What the server tells the browser, and which files it lists."""
    pytest.importorskip("jupyterlab", reason="JUPYTERLAB WAS NOT STARTED: pip install jupyterlab")
    open_course = [sys.executable, "-m", "afnp", "lessons"]
    with served(open_course, tmp_path, PYTHONPATH=str(ROOT)) as (get, _):
        page = re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', get("lab"), re.DOTALL)
        listed = json.loads(get("api/contents/"))["content"]
    off = json.loads(page[1])["disabledExtensions"]
    assert "@jupyterlab/apputils-extension:announcements" in off
    notebooks = {path.name for path in (ROOT / "lessons").glob("*.ipynb")}
    assert {entry["name"] for entry in listed} == {"solutions", *notebooks}


@pytest.mark.browser
def test_one_command_leads_from_the_wheel_to_a_moving_lesson(built, environment, browser, tmp_path):
    """In a shell, away from the clone: install the wheel, open the course, run it, drag a slider.

    What the wheel needs is there already, so that no index is asked.
    """
    for module in ("jupyterlab", "ipywidgets"):
        pytest.importorskip(module, reason=f"NO LESSON WAS OPENED: pip install {module}")
    home, wheel = environment("one"), next(built.glob("*.whl"))
    pip = f"'{sys.executable}' -m pip --python '{home}/bin/python' install -q --no-index"
    one = f"{pip} '{wheel}[lessons]' && exec '{home}/bin/afnp' lessons \"$@\""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(120_000)
    with served(["bash", "-c", one, "bash"], tmp_path) as (_, address):
        page.goto(f"{address}/lab/tree/02_from_conditionals_to_a_flow.ipynb?token=test")
        page.get_by_text(re.compile(r"\| Idle")).first.wait_for()
        page.locator(".jp-Notebook h1").first.click()
        for _ in range(4):  # a title, code, text, and the picture
            page.keyboard.press("Shift+Enter")
        box = page.locator(".widget-vbox", has=page.locator(".widget-slider")).first
        picture, handle = box.locator("img"), box.locator(".noUi-handle").first
        before = picture.get_attribute("src")
        handle.scroll_into_view_if_needed()
        knob = handle.bounding_box()
        x, y = knob["x"] + knob["width"] / 2, knob["y"] + knob["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=6)
        page.mouse.up()
        box.locator(f"img:not([src='{before}'])").wait_for()  # it follows the hand
        assert page.get_by_text("Would you like to").count() == 0  # no news of JupyterLab's
        page.close()
    assert (tmp_path / "afnp-lessons" / ".passed").is_dir()


@contextlib.contextmanager
def served(command, folder, **variables):
    """Run what opens the course, without a browser; yield what gets a page, and the address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [*command, "--no-browser", f"--port={port}"]
    command += ["--IdentityProvider.token=test", "--allow-root"]
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    server = subprocess.Popen(
        command,
        cwd=folder,
        env={**kept, "JUPYTER_CONFIG_DIR": str(folder / "config"), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"

    def get(path):
        with urllib.request.urlopen(f"{address}/{path}?token=test") as answer:
            return answer.read().decode()

    try:
        for _ in range(900):
            with contextlib.suppress(OSError):
                get("api")
                break
            time.sleep(0.2)
        yield get, address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)
