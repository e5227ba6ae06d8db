"""The lessons in a real browser: opened by their command, run by the menu, read, and moved by hand.

JupyterLab listens on the loopback interface only, keeps its token, and serves a copy of the
lessons, because it saves what it runs. Debian's chromium is installed where that is possible; where
it is not, the tests are skipped, and the reason is printed by ``pytest -rs``.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "lessons").glob("[0-9][0-9]_*.ipynb"))
MOVED = [path for path in LESSONS if path.name[:2] in ("02", "03", "04")]
TOKEN = "only-for-this-test"
PATIENCE = 60_000
"""Milliseconds until something counts as not coming."""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """Serve a copy of the lessons with the command that readers use; return the address."""
    for module in ("jupyterlab", "ipywidgets"):
        pytest.importorskip(module, reason=f"NO BROWSER TEST WAS RUN: pip install {module}")
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(
        ROOT / "lessons", home / "lessons", ignore=shutil.ignore_patterns("__pycache__")
    )
    write(home / "config/labconfig/page_config.json", {"disabledExtensions": {NEWS: True}})
    write(home / "settings" / TRACKER, {"windowingMode": "none"})  # all cells stay in the page
    port = free_port()
    arguments = ["--no-browser", f"--port={port}", f"--IdentityProvider.token={TOKEN}"]
    arguments += ["--allow-root"] if os.geteuid() == 0 else []
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lessons", *arguments],
            cwd=home,
            env=environment(home),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield wait_for(f"http://127.0.0.1:{port}", process, home / "log")
    finally:
        os.killpg(process.pid, 15)  # the server, and the kernels that it started
        process.wait(timeout=30)


NEWS = "@jupyterlab/apputils-extension:announcements"
TRACKER = "@jupyterlab/notebook-extension/tracker.jupyterlab-settings"


def write(path, values):
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(values))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def environment(home):
    paths = [str(home), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    folders = {
        "JUPYTER_CONFIG_DIR": home / "config",
        "JUPYTER_DATA_DIR": home / "data",
        "JUPYTERLAB_SETTINGS_DIR": home / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
    }
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        **{k: str(v) for k, v in folders.items()},
    }


def wait_for(address, process, log):
    for _ in range(300):
        if process.poll() is not None:
            pytest.fail(f"the command ended with {process.returncode}:\n{log.read_text()}")
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
            return address
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer from {address}:\n{log.read_text()}")


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def open_lesson(page, server, path):
    """Open a lesson, and wait until its kernel is ready."""
    page.goto(f"{server}/lab/tree/{path.name}?token={TOKEN}&reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.get_by_text(re.compile(r"\| Idle")).first.wait_for()


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def read_last_output(page, text):
    output = page.locator(".jp-Cell").last.locator(".jp-OutputArea-output", has_text=text)
    output.wait_for()
    return output.inner_text()


PIXELS = """image => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""


def pixels(image):
    image.scroll_into_view_if_needed()
    return image.evaluate(PIXELS)


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def photograph(page, path):
    """Keep a picture of the whole lesson, from its first line to its last."""
    sheet = page.locator(".jp-WindowedPanel-outer")
    page.set_viewport_size(
        {"width": 1280, "height": min(sheet.evaluate("sheet => sheet.scrollHeight") + 200, 16_000)}
    )
    page.wait_for_timeout(1000)  # until everything has found its place
    sheet.evaluate("sheet => sheet.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    folder = Path(os.environ["LESSON_SHOTS"])
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(folder / f"{path.stem}.png"))


def test_the_command_opens_the_contents(page, server):
    page.goto(f"{server}/?token={TOKEN}")
    page.locator(".jp-Notebook h1", has_text="A course in autoregressive flows").wait_for()
    assert page.locator(".jp-Notebook table a").count() >= len(LESSONS) - 1


def test_without_the_token_nothing_is_served(page, server):
    page.goto(f"{server}/lab/tree/{LESSONS[0].name}")
    assert "/login" in page.url


@pytest.mark.parametrize("path", MOVED, ids=lambda path: path.stem)
def test_a_lesson_runs_and_its_pictures_follow_the_hand(page, server, path):
    open_lesson(page, server, path)
    run_all(page)
    assert re.search(
        r"^0 of \d+ exercises are right", read_last_output(page, "exercises are right")
    )
    assert (
        page.locator(".jp-OutputArea-output[data-mime-type*='stderr'], .jp-mod-error").count() == 0
    )
    assert (
        page.locator(".jp-RenderedMarkdown mjx-container, .jp-RenderedMarkdown .MathJax").count()
        > 10
    )

    box = page.locator(".widget-vbox", has=page.locator(".widget-slider")).first
    picture, slider = (
        box.locator("img"),
        box.locator(".widget-slider [role=slider], .noUi-handle").first,
    )
    before = pixels(picture)
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    wait_until(lambda: pixels(picture) != before, "the picture did not follow the slider")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    wait_until(lambda: pixels(picture) == before, "the picture did not come back")


def test_an_exercise_is_answered_wrongly_and_then_rightly(page, server):
    open_lesson(page, server, LESSONS[1])
    run_all(page)
    read_last_output(page, "exercises are right")
    stub = page.locator(".jp-CodeCell", has_text="p (K1, K2) is p(x1, x2)").first
    check = page.locator(".jp-CodeCell", has_text='check("conditional", conditional)').first
    for axis, verdict in (("0", "✗ not right: conditional"), ("1", "✓ right: conditional")):
        replace(
            page, stub, f"def conditional(p):\n    return p / p.sum(axis={axis}, keepdims=True)"
        )
        stub = page.locator(".jp-CodeCell", has_text="def conditional(p)").first
        check.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        output = check.locator(".jp-OutputArea-output", has_text=verdict)
        output.wait_for()
        assert "Traceback" not in output.inner_text()


def replace(page, cell, code):
    """Type new code into a cell, and run it."""
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(code)
    page.keyboard.press("Control+Enter")


@pytest.mark.skipif(
    "LESSON_SHOTS" not in os.environ, reason="set LESSON_SHOTS=FOLDER for a picture of every lesson"
)
@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_photographs_of_all_lessons(page, server, path):
    open_lesson(page, server, path)
    run_all(page)
    read_last_output(page, re.compile("exercises are right|pictures will"))
    photograph(page, path)
    assert (Path(os.environ["LESSON_SHOTS"]) / f"{path.stem}.png").stat().st_size > 10_000
