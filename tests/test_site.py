"""The site: formulas without a script, links that lead somewhere, nothing from another host;
and all of it."""

import contextlib
import functools
import http.server
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

import afnp
from afnp import minimal
from afnp.chain_rule import GaussianChain
from afnp.verify import complex_step_jacobian

ROOT = Path(__file__).parents[1]
NEEDED = ("sphinx", "myst_nb", "furo", "latex2mathml", "ziamath")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_sphinx = pytest.mark.skipif(
    bool(MISSING), reason=f"THE SITE WAS NOT TESTED: pip install {' '.join(MISSING)}"
)
links = importlib.import_module("lessons.web.links")
sources = importlib.import_module("lessons.web.sources")
reference = importlib.import_module("lessons.web.reference")
gallery = importlib.import_module("lessons.web.gallery")
explainer = importlib.import_module("lessons.web.explainer")
prose = importlib.import_module("lessons.web.prose")
live = importlib.import_module("lessons.web.live")
trained = importlib.import_module("lessons.trained")
easel = importlib.import_module("lessons.easel")
FIT = afnp.fit
MATHML = "{http://www.w3.org/1998/Math/MathML}"


# ---- formulas ------------------------------------------------------------------------------------


def mathml(tex, display=False):
    pytest.importorskip("latex2mathml", reason="NO FORMULA WAS TESTED: pip install latex2mathml")
    text = importlib.import_module("lessons.web.maths").mathml(tex, display)
    return fromstring(f"<all>{text}</all>")


def letters(tree):
    return "".join(tree.itertext())


def test_a_formula_keeps_its_letters():
    assert letters(mathml(r"x_i = \mu_i + e^{\alpha_i} u_i < 1")) == "xi=μi+eαiui<1"
    assert letters(mathml(r"\mathcal L, \mathbb E, \texttt{d\_y}")) == "ℒ,𝔼,𝚍_𝚢"


@pytest.mark.parametrize(
    "tex",
    [
        r"\unheard x",
        r"a & b",
        r"\frac{a}",
        r"\left( a",
        "x_a_b",
        r"\begin{unheard} a \\ b \end{unheard}",
    ],
)
def test_a_formula_that_cannot_be_converted_is_an_error(tex):
    with pytest.raises(ValueError, match=r"in '"):
        mathml(tex)


@pytest.mark.parametrize(
    "tex, spaces",
    [
        (r"\log p", 1),
        (r"\log(p)", 0),
        (r"a \log b", 2),
        (r"\log_2 p", 1),
        (r"\log |p|", 1),
        ("a b", 0),
    ],
)
def test_names_of_functions_stand_off(tex, spaces):
    assert len(list(mathml(tex).iter(f"{MATHML}mspace"))) == spaces


def test_statements_side_by_side_can_be_put_below_each_other():
    def count(tex):
        return len(list(mathml(tex, True).iter(f"{MATHML}math")))

    assert count(r"a = b, \qquad c = d") == 2
    assert (
        count(
            r"\begin{cases} a & b \qquad c \end{cases}, \qquad \left( a \qquad b \right), {a "
            r"\qquad b}"
        )
        == 2
    )
    assert count("a &= b \\qquad c\n\nd &= e") == 1
    assert len(list(mathml("a &= b\n\nd &= e", True).iter(f"{MATHML}mtr"))) == 2


def test_nothing_is_left_that_browsers_do_not_draw():
    tree = mathml(r"\boxed{\mathcal L}, \mathbf W, \begin{cases} a & b \\ c & d \end{cases}", True)
    assert not list(tree.iter(f"{MATHML}menclose"))
    assert not [e for e in tree.iter() if "columnalign" in e.attrib or "mathvariant" in e.attrib]


# ---- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, cut",
    [
        ("p(x_i | x_<i)", [("", "p(x"), ("_", "i"), ("", " | x"), ("_", "<i"), ("", ")")]),
        ("x_{i-1}, L_ii", [("", "x"), ("_", "i-1"), ("", ", L"), ("_", "ii")]),
        ("f^{-1}(x)", [("", "f"), ("^", "-1"), ("", "(x)")]),
        ("e^{-s_k} u", [("", "e"), ("^", "-s_k"), ("", " u")]),
        ("2^16 or e^λ", [("", "2"), ("^", "16"), ("", " or e"), ("^", "λ")]),
        ("x_train, d_x, h_at, log_prob, x_[i]", [("", "x_train, d_x, h_at, log_prob, x_[i]")]),
    ],
)
def test_letters_have_indices_and_names_of_the_code_have_none(text, cut):
    assert prose.pieces(text) == cut


# ---- links ---------------------------------------------------------------------------------------

PAGE = (
    '<html><head><link href="s.css" rel="stylesheet"></head><body id="top"><p '
    'id="here"></p>{}</body></html>'
)


@pytest.mark.parametrize(
    "body, problem",
    [
        ('<a href="b.html#there">', None),
        ('<a href="#here">', None),
        ('<a href="https://example.org/x">', None),
        ('<img src="data:image/png;base64,AA">', None),
        ('<a href="c.html">', "does not exist"),
        ('<a href="b.html#nowhere">', "no such place"),
        ('<a href="#nowhere">', "no such place"),
        ('<a href="../outside.html">', "outside the site"),
        ('<img src="missing.png">', "does not exist"),
        ('<img src="https://example.org/x.png">', "another host"),
        ('<script src="//example.org/x.js"></script>', "another host"),
        ('<link href="http://example.org/x.css">', "another host"),
        ('<p style="background: url(https://example.org/x.png)">', "another host"),
    ],
)
def test_the_link_checker_tells_right_from_wrong(tmp_path, body, problem):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "outside.html").write_text("")
    (site / "a.html").write_text(PAGE.format(body))
    (site / "b.html").write_text('<p id="there"></p>')
    (site / "s.css").write_text("p { color: red }")
    checked = links.check(site)
    assert (checked.pages, checked.links) == (2, 2)
    assert [p for p in checked.problems if problem and problem in p] == checked.problems
    assert len(checked.problems) == (problem is not None)


def test_a_style_sheet_may_not_ask_elsewhere(tmp_path):
    (tmp_path / "a.html").write_text("<p>")
    (tmp_path / "s.css").write_text(
        "@import 'https://example.org/x.css'; p { src: url(gone.woff) }"
    )
    problems = links.check(tmp_path).problems
    assert len(problems) == 2 and "another host" in problems[0] + problems[1]


def test_without_pages_there_is_nothing_to_say(tmp_path):
    with pytest.raises(ValueError, match="expected pages"):
        links.check(tmp_path)


# ---- sources -------------------------------------------------------------------------------------


def test_controls_are_found_in_a_call_of_play():
    code = (
        "x = f(a=1)\neasel.play(\n    draw,\n    log_scale=(-1.0, 1.0, 0.1, 0.0),\n    "
        "show=True,\n)"
    )
    assert sources.moved(code) == ["log_scale", "show"]
    assert sources.moved("easel.style()\nf(a=1)") == []


@pytest.mark.slow
def test_the_program_of_the_front_page_runs(capsys):
    """Fewer epochs, everything else to the letter."""
    (program,) = re.findall(r"```python\n(.*?)```", sources.FRONT, flags=re.S)
    assert program.count("epochs=10)") == 1
    exec(program.replace("epochs=10)", "epochs=1, progress=False)"), {})
    said = capsys.readouterr().out
    assert "nats" in said and " 0 failed" in said


def test_every_figure_has_a_page_with_claim_and_command():
    names = sorted(path.stem for path in (ROOT / "figures").glob("[0-9][0-9]_*.py"))
    assert len(names) > 10
    for name in names:
        claim, _ = gallery.docstring(name)
        page = gallery.page(name, None)
        assert claim.endswith(".") and claim in page and f"python -m figures {name[3:]}" in page
        assert "Not drawn yet" in page and f"literalinclude:: {name}.py" in page


def test_every_public_name_is_described_once():
    described = reference.homes()
    assert described["afnp.constructors.maf"] == described["afnp.flow.Flow"] == "afnp"
    assert described["afnp.verify.levels.LEVELS"] == "afnp.verify"
    assert described["afnp.networks.masks.mask"] == "afnp.networks.masks"
    homes = sorted(set(described.values()))
    entries = re.findall(
        r"^\.\. (?:auto(?:function|class|exception)|py:data):: (\S+)$",
        "\n".join(reference.page(unit, described) for unit in reference.units()),
        flags=re.M,
    )
    assert len(entries) == len(described) and set(homes) > {"afnp", "afnp.sampling.substitution"}
    assert {f"{home}.{full.rpartition('.')[2]}" for full, home in described.items()} >= {
        e for e in entries if "." in e
    }


def test_the_index_says_more_of_a_module_than_its_name():
    assert reference.first_line("afnp.ensemble").startswith("Ensembles: several flows as one")
    for unit in reference.units():
        said = reference.first_line(unit)
        assert len(said.split()) >= 3, f"{unit}: {said}"


def test_constants_are_described_by_the_string_below_them():
    assert reference.documentation("afnp.univariate", "UNIVARIATES").startswith("By the name")
    assert reference.definer("afnp.verify", "LEVELS") == "afnp.verify.levels"
    assert (
        reference.definer("afnp.data", "bits_per_dim") == "afnp.data.dataset"
    )  # by a relative import


def test_every_public_name_says_what_it_is():
    said = {
        full: reference.documentation(home, full.rpartition(".")[2])
        for full, home in reference.homes().items()
    }
    assert len(said) > 400
    assert [full for full, text in said.items() if not text.strip()] == []
    assert said["afnp.compiled.compiler.intrinsic"].startswith("For LLVM")  # not what Numba says
    assert reference.summary("afnp.compiled.compiler", "EXACT").endswith("cancel no more.")
    assert said["afnp.compiled.tiles.ONE"] == said["afnp.compiled.tiles.START"]


def test_the_index_of_the_reference_lists_every_page_once(tmp_path):
    units = reference.write(tmp_path / "reference")
    index = (tmp_path / "reference" / "index.rst").read_text()
    listed = re.findall(r"^:doc:`([\w.]+)`$", index, flags=re.M)
    assert sorted(listed) == sorted(set(units) - {"afnp"})
    assert all(f"`{name} <afnp.{name}>`" in index for name in reference.public("afnp"))


def test_downloads_are_what_a_reader_needs(tmp_path):
    names = sources.lessons(tmp_path / "lessons")
    with zipfile.ZipFile(tmp_path / "lessons" / "download" / "afnp-lessons.zip") as archive:
        packed = set(archive.namelist())
    wanted = {f"{name}.ipynb" for name in names} | {"checker.py", "easel.py", "solutions/01.py"}
    assert {f"afnp-lessons/{name}" for name in wanted} <= packed
    for name in names:
        shipped = (ROOT / "lessons" / f"{name}.ipynb").read_bytes()
        assert (tmp_path / "lessons" / "download" / f"{name}.ipynb").read_bytes() == shipped


def test_a_folder_can_be_left_out_of_the_check(tmp_path):
    """Its pages and style sheets are not looked at, but links to it must lead somewhere."""
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "a.html").write_text('<img src="https://example.org/x.png">')
    (tmp_path / "live" / "a.css").write_text("p { src: url(gone.woff) }")
    (tmp_path / "a.html").write_text('<a href="live/a.html?path=x"></a><a href="live/b.html"></a>')
    assert len(links.check(tmp_path).problems) == 3
    checked = links.check(tmp_path, skipped="live")
    assert (checked.pages, checked.links) == (1, 2)
    assert checked.problems == ["a.html: live/b.html does not exist"]


# ---- lessons that run in the browser -------------------------------------------------------------


def shipped(name):
    return json.loads((ROOT / "lessons" / f"{name}.ipynb").read_text(encoding="utf-8"))


def test_a_lesson_says_how_to_run_it_and_has_a_button_where_it_can():
    first = [
        sources.lesson(shipped("04_masks"), "04_masks.ipynb", runs)["cells"][1]["source"]
        for runs in (False, True)
    ]
    assert "python -m lessons" in first[0] and "Run this lesson" not in first[0]
    assert 'href="../live/lab/index.html?path=04_masks.ipynb"' in first[1] and first[0] != first[1]


def test_a_live_lesson_installs_what_it_imports_and_is_otherwise_as_shipped():
    for name, digits in (("04_masks", False), ("10_images", True)):
        got = live.notebook(shipped(name))
        install = next(cell for cell in got["cells"] if cell["cell_type"] == "code")
        assert install["source"].startswith("%pip install -q afnp ipywidgets")
        assert ("scikit-learn" in install["source"]) == digits
        assert got["metadata"]["kernelspec"]["name"] == "python"
        assert install["source"].endswith("\nimport pathlib, trained\n" + RECALLS)
        added = ("live-said", "live-install")
        kept = [cell for cell in got["cells"] if cell["id"] not in added]
        assert kept == shipped(name)["cells"]


RECALLS = "trained.recall(pathlib.Path('trained'))"


def trainings(folder, monkeypatch):
    """Return what runs a training, kept in a folder or taken up from it."""
    x = np.random.default_rng(0).standard_normal((200, 2))

    def run(shift=0.0, way=trained.recall, **options):
        monkeypatch.setattr(afnp, "fit", FIT)
        way(folder)
        flow = afnp.maf(2, hidden=(4,), transforms=1, context=1, seed=3)
        recipe = {"epochs": 2, "batch_size": 50, "progress": False, **options}
        return flow, afnp.fit(flow, x + shift, context=x[:, :1] + shift, **recipe)

    return run


def test_a_training_that_was_kept_is_taken_up(tmp_path, monkeypatch, capsys):
    run = trainings(tmp_path / "trained", monkeypatch)
    flow, history = run(way=trained.keep)
    assert capsys.readouterr().out == ""
    again, told = run(1e-12)
    assert "taken up" in capsys.readouterr().out
    assert (again.theta == flow.theta).all() and told == history


@pytest.mark.parametrize("other", [{"shift": 0.01}, {"epochs": 3}, {"seed": 1}])
def test_a_training_that_a_reader_changes_is_run(tmp_path, monkeypatch, capsys, other):
    run = trainings(tmp_path / "trained", monkeypatch)
    flow, _ = run(way=trained.keep)
    again, _ = run(**other)
    assert capsys.readouterr().out == "" and not (again.theta == flow.theta).all()


def test_a_live_folder_has_the_trainings(tmp_path):
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "a.npz").write_bytes(b"theta")
    live.contents(tmp_path / "live", tmp_path / "trained")
    assert (tmp_path / "live" / "trained.py").is_file()
    assert (tmp_path / "live" / "trained" / "a.npz").read_bytes() == b"theta"


def test_pyodide_is_looked_for_before_anything_is_made(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no pyodide\.mjs, pyodide-lock\.json"):
        live.build(tmp_path / "work", tmp_path / "html", tmp_path)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def served(folder):
    """Give a folder's files to browsers; yield the address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """A site's folder with the JupyterLite; SITE=FOLDER may have one that has been built."""
    if "SITE" in os.environ and (Path(os.environ["SITE"]) / "live").is_dir():
        return Path(os.environ["SITE"]).resolve()
    folder = tmp_path_factory.mktemp("live")
    live.build(folder / "work", folder / "html")
    return folder / "html"


LACKING = [name for name in live.NEEDED if importlib.util.find_spec(name) is None]
needs_jupyterlite = pytest.mark.skipif(
    bool(LACKING), reason=f"NO LIVE LESSON WAS OPENED: pip install {' '.join(LACKING)}"
)


@needs_jupyterlite
@pytest.mark.slow
def test_pyodide_is_taken_from_the_folder_that_is_named(tmp_path):
    """Not a Pyodide, but files of its names: what the pages are told of them."""
    runtime = tmp_path / "pyodide"
    runtime.mkdir()
    for name in live.RUNTIME:
        (runtime / name).write_text("{}")
    live.build(tmp_path / "work", tmp_path / "html", runtime)
    told = json.loads((tmp_path / "html" / "live" / "jupyter-lite.json").read_text())
    plugins = told["jupyter-config-data"]["litePluginSettings"]
    kernel = plugins["@jupyterlite/pyodide-kernel-extension:kernel"]
    assert kernel["pyodideUrl"] == "./static/pyodide/pyodide.mjs"
    assert (tmp_path / "html" / "live" / "static" / "pyodide" / "pyodide.mjs").is_file()
    (wheel,) = (tmp_path / "html" / "live" / "pypi").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        needed = re.findall("^Requires-Dist: (.*)$", archive.read(metadata).decode(), flags=re.M)
    assert [n for n in needed if n.startswith("numba>")] == [
        'numba>=0.60; sys_platform != "emscripten"'
    ]


@needs_jupyterlite
@pytest.mark.browser
def test_a_live_lesson_opens_beside_the_list_of_all(lively, browser):
    """The pages alone: Pyodide comes from another host, which is not asked here."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    wrong, asked = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    with served(lively) as address:

        def route(route):
            local = route.request.url.startswith((address, "data:", "blob:"))
            if local:
                route.continue_()
            else:
                asked.append(route.request.url)
                route.abort()

        page.route("**/*", route)
        page.goto(f"{address}/{live.address('04_masks')}")
        page.locator(".jp-Notebook h1", has_text="Masks").wait_for(timeout=60_000)
        items = page.locator(".jp-DirListing-item .jp-DirListing-itemText")
        listed = set(items.all_text_contents())
        code = page.locator(".jp-CodeCell").first.text_content()
        if "LESSON_SHOTS" in os.environ:
            page.screenshot(path=Path(os.environ["LESSON_SHOTS"]) / "live.png")
        page.close()
    notebooks = {path.name for path in (ROOT / "lessons").glob("*.ipynb")}
    given = {"checker.py", "easel.py", "exercises", "solutions", "trained.py"}
    assert given <= listed - notebooks <= {*given, "trained"} and notebooks <= listed
    assert "pip install -q afnp" in code
    assert all("pyodide" in url for url in asked)
    assert {url.split("/")[2] for url in asked} <= {"cdn.jsdelivr.net"}
    assert [error for error in wrong if "pyodide" not in error] == []


# ---- the explainer -------------------------------------------------------------------------------


def noise(rows=20):
    return np.random.default_rng(3).uniform(-2.5, 2.5, (rows, 3))


@pytest.fixture(scope="module")
def taught():
    """The flow of the explainer, and the page that shows it, without a site around it."""
    flow = explainer.flow()
    model = json.dumps(explainer.model(flow.theta))
    static = ROOT / "lessons" / "web" / "static"
    html = (
        f"<!doctype html><style>{(static / 'site.css').read_text()}</style><body>"
        f'<div id="explainer"></div><script type="application/json" id="explainer-model">{model}'
        f"</script><script>{(static / 'explainer.js').read_text()}</script></body>"
    )
    return flow, html


def test_the_flow_of_the_explainer_has_learned_something(taught):
    """Its density beats that of a normal distribution with the same mean and covariance."""
    x = explainer.data(seed=1)
    normal = GaussianChain(explainer.data().mean(axis=0), np.cov(explainer.data().T))
    assert taught[0].log_prob(x).mean() > normal.log_prob(x).mean() + 0.3


@pytest.fixture
def shown(taught, browser, tmp_path):
    (tmp_path / "page.html").write_text(taught[1], encoding="utf-8")
    page = browser.new_page(viewport={"width": 1000, "height": 1200})
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "page.html").as_uri())
    yield taught[0], page
    page.close()
    assert wrong == []


@pytest.mark.browser
def test_the_arithmetic_of_the_explainer_is_the_packages(shown):
    flow, page = shown
    u = noise()
    x, log_det = flow.generate(u, backend="numpy")
    log_p = flow.log_prob(x, backend="numpy")
    made = minimal_twin(flow)
    mu, alpha, a = made.conditionals(x)
    inverse = complex_step_jacobian(lambda z: made.normalize(z)[0], x)
    for n, row in enumerate(u.tolist()):
        got = page.evaluate("u => window.afnpExplainer.compute(u)", row)
        close = {
            "x": x[n],
            "log_p": log_p[n],
            "log_det": log_det[n],
            "J": np.linalg.inv(inverse[n]),
        }
        close |= {"mu": mu[n], "alpha": alpha[n], "hidden": a[1][n]}
        for name, expected in close.items():
            np.testing.assert_allclose(got[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)
        said = page.evaluate("x => window.afnpExplainer.density(x)", x[n].tolist())
        assert said == pytest.approx(log_p[n], abs=1e-6)


def minimal_twin(flow):
    made = minimal.MADE(3, (explainer.HIDDEN,), np.random.default_rng(0))
    cuts = np.cumsum([p.size for p in minimal.parameters([made])])[:-1]
    for p, piece in zip(minimal.parameters([made]), np.split(flow.theta, cuts), strict=True):
        p[:] = piece.reshape(p.shape)
    return made


def lit(page):
    """The numbers that are on screen, by what they are of."""
    texts = page.locator("[data-number]").evaluate_all(
        "all => all.map(t => [t.dataset.number, t.textContent])"
    )
    return {name: text.replace("\u2212", "-") for name, text in texts if text}


@pytest.mark.browser
def test_the_whole_network_is_seen_on_a_telephone(taught, browser, tmp_path):
    """From x to the x that is made, without pushing, in letters that can be read."""
    (tmp_path / "page.html").write_text(taught[1], encoding="utf-8")
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.querySelector('.net').scrollWidth") <= 390
    circles = [c.bounding_box() for c in page.locator(".net .unit circle").all()]
    assert min(box["x"] for box in circles) >= 0
    assert max(box["x"] + box["width"] for box in circles) <= 390
    numbers = page.locator(".net .unit text").all()
    assert min(number.bounding_box()["height"] for number in numbers) >= 9
    page.close()


@pytest.mark.browser
def test_numbers_light_up_in_the_order_of_degrees(shown):
    _, page = shown
    page.locator("[data-act=start]").click()
    seen, order = set(lit(page)), []
    assert seen == {"u1", "u2", "u3"}
    count = page.locator(".count")
    for _ in range(8):
        page.locator("[data-act=step]").click()
        order.append(set(lit(page)) - seen)
        seen |= order[-1]
    low, high = {f"a{k}" for k in range(1, 5)}, {f"a{k}" for k in range(5, 9)}
    assert order == [
        {"mu1", "alpha1"},
        {"x1", "x1-in"},
        low,
        {"mu2", "alpha2"},
        {"x2", "x2-in"},
        high,
        {"mu3", "alpha3"},
        {"x3", "x3-in"},
    ]
    assert (count.get_attribute("data-substitution"), count.get_attribute("data-loop")) == (
        "8",
        "24",
    )
    masks = page.locator("rect.on").evaluate_all("all => all.map(r => r.dataset.status)")
    assert set(masks) <= {"known", "now"}
    page.locator("[data-act=back]").click()
    assert set(lit(page)) == seen - order[-1]
    rows = page.locator("table.jacobian td").all_text_contents()
    assert [bool(text) for text in rows] == [True] * 6 + [False] * 3


@pytest.mark.browser
def test_dragging_the_noise_moves_the_sample_and_the_point(shown):
    flow, page = shown
    slider = page.locator("[data-noise='1']")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    before = lit(page)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    after = lit(page)
    assert after["x1"] != before["x1"] and after["u2"] == before["u2"]
    u = np.array([[float(slider.input_value()), *(float(after[f"u{k}"]) for k in (2, 3))]])
    x = flow.generate(u, backend="numpy")[0][0]
    np.testing.assert_allclose([float(after[f"x{k}"]) for k in (1, 2, 3)], x, atol=6e-3)

    area = page.locator(".map svg").bounding_box()
    page.mouse.move(area["x"] + 0.5 * area["width"], area["y"] + 0.6 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.4 * area["width"], area["y"] + 0.62 * area["height"], steps=4)
    page.mouse.up()
    point = page.locator(".point").bounding_box()
    assert abs(point["x"] + point["width"] / 2 - area["x"] - 0.4 * area["width"]) < 3
    assert abs(point["y"] + point["height"] / 2 - area["y"] - 0.62 * area["height"]) < 3


# ---- pictures that move --------------------------------------------------------------------------


def test_no_position_of_a_picture_warns(tmp_path, monkeypatch):
    monkeypatch.setenv("AFNP_RECORD", str(tmp_path))

    def draw(power):
        figure, ax = easel.plt.subplots(figsize=(1, 1))
        ax.plot(np.log(np.array([0.1]) ** power))
        return figure

    easel.play(draw, power=(1, 3, 1, 1))
    with pytest.raises(RuntimeWarning, match="divide by zero"):
        easel.play(draw, power=(100, 500, 100, 100))


@pytest.fixture
def moving(browser, tmp_path, monkeypatch):
    """A recorded picture on a page of its own: a bar as long as the slider says, red or blue."""
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.setenv("AFNP_RECORD", str(tmp_path / "_states"))

    def draw(length, colour, upright):
        figure, ax = easel.plt.subplots(figsize=(2, 2))
        (ax.bar if upright else ax.barh)(0, length, color=colour)
        ax.set(xlim=(0, 3), ylim=(0, 3))
        return figure

    shown = easel.play(draw, length=(0, 3, 1, 1), colour=["red", "blue"], upright=False)
    script = (ROOT / "lessons" / "web" / "static" / "moves.js").read_text()
    (tmp_path / "lessons").mkdir()
    path = tmp_path / "lessons" / "page.html"
    html = shown._repr_mimebundle_()["text/html"]
    path.write_text(f"<!doctype html><body>{html}<script>{script}</script></body>")
    page = browser.new_page(viewport={"width": 390, "height": 800}, has_touch=True)
    page.goto(path.as_uri())
    yield page
    page.close()


def source_of(page):
    page.locator("div.moves img").evaluate("image => image.decode()")
    return page.locator("div.moves img").get_attribute("src")


@pytest.mark.browser
def test_a_recorded_picture_follows_the_hand(moving):
    slider = moving.locator("input[type=range]")
    box = slider.bounding_box()
    first = source_of(moving)
    assert moving.locator("output").first.text_content() == "1"
    middle = box["y"] + box["height"] / 2
    moving.mouse.move(box["x"] + box["width"] / 3, middle)
    moving.mouse.down()
    moving.mouse.move(box["x"] + box["width"] - 2, middle, steps=6)
    moving.mouse.up()
    assert moving.locator("output").first.text_content() == "3"
    longest = source_of(moving)
    moving.locator("select").select_option(label="blue")
    blue = source_of(moving)
    moving.locator("input[type=checkbox]").tap()
    upright = source_of(moving)
    assert len({first, longest, blue, upright}) == 4
    moving.locator("input[type=checkbox]").tap()
    moving.locator("select").select_option(label="red")
    moving.touchscreen.tap(box["x"] + box["width"] / 3, middle)
    assert source_of(moving) == first


@pytest.mark.parametrize("name", ["stairs", "mosaic", "a"])
def test_recordings_keep_the_ends_and_the_start(name):
    ranges = {
        "stairs": {"units": (3, 16, 1, 10), "draw": (0, 9, 1, 0), "sort": False},
        "mosaic": {"first": ["cloudy", "rain"], "share": (0.02, 0.98, 0.02, 0.9)},
        "a": {"a": (0.0, 1.0, 0.3, 0.5)},
    }[name]
    full = {k: easel.positions(given) for k, given in ranges.items()}
    kept = easel.thinned(full, ranges)
    assert np.prod([len(values) for values in kept.values()]) <= easel.STATES
    for k, given in ranges.items():
        assert set(kept[k]) <= set(full[k]) and (kept[k][0], kept[k][-1]) == (
            full[k][0],
            full[k][-1],
        )
        if isinstance(given, tuple):
            assert given[3] in kept[k]


# ---- a small site --------------------------------------------------------------------------------

FRONT = r"""# A small site

Inline $\log p(x) = \sum_i \log p(x_i \mid x_{<i})$, and displayed

$$\boxed{\;\log\left|\det J\right| = \sum_i \log J_{ii}\;} \qquad
J = \begin{pmatrix} a & 0 \\ b & c \end{pmatrix}$$

In text x_i and e^{-s_k}, in code `x_i`.

| short | long |
|---|---|
| one | a cell of many words, each of them on a line of its own where it is squeezed |

```{toctree}
afnp.networks.masks
```
"""


def build(source, out):
    """Build in a process of its own; the cache of results goes along."""
    code = (
        "import sys; from pathlib import Path; from lessons.web.__main__ import build; "
        "sys.exit(build(Path(sys.argv[1]), Path(sys.argv[2]), execute=False))"
    )
    command = [sys.executable, "-c", code, str(source), str(out)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A page with formulas and the reference of one module."""
    out = tmp_path_factory.mktemp("small")
    source = out / "source"
    source.mkdir()
    (source / "index.md").write_text(FRONT)
    (source / "afnp.networks.masks.rst").write_text(
        reference.page("afnp.networks.masks", reference.homes())
    )
    done = build(source, out)
    assert done.returncode == 0, done.stderr
    return out / "html"


@needs_sphinx
def test_a_small_site_is_whole_and_needs_no_other_host(small):
    checked = links.check(small)
    assert checked.problems == []
    assert checked.links > 100
    front, masks = (
        (small / "index.html").read_text(),
        (small / "afnp.networks.masks.html").read_text(),
    )
    assert front.count("<math ") == 3 and not re.search("<script[^>]*mathjax", front, flags=re.I)
    assert 'id="afnp.networks.masks.mask"' in masks
    assert "_modules/afnp/networks/masks.html#mask" in masks
    assert "\\" not in re.sub(r"<(script|pre)\b.*?</\1>", "", front, flags=re.S)
    assert "x<sub>i</sub> and e<sup>-s<sub>k</sub></sup>" in front and ">x_i</span>" in front
    assert front.count("<td>") == 1 and front.count('<td class="long">') == 1


@needs_sphinx
def test_a_warning_fails_the_build(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text(
        "# Wrong\n\nA formula, $\\unheard x$, and [a link](nowhere.md).\n"
    )
    done = build(source, tmp_path)
    assert done.returncode != 0
    assert "unheard" in done.stderr and "nowhere" in done.stderr


# ---- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def visit(browser):
    """Open a page from disk; return it, and what it asked of other hosts or complained about."""
    pages = []

    def visit(path):
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        pages.append(page)
        wrong = []
        page.on(
            "request",
            lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url),
        )
        page.on("requestfailed", lambda r: wrong.append(r.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(path.as_uri())  # until all that the page names has come
        page.evaluate("document.fonts.ready.then(() => null)")
        page.wait_for_timeout(500)  # what a script would fetch; "networkidle" may never be said
        return page, wrong

    yield visit
    for page in pages:
        page.close()


BOXES = (
    "maths => maths.map(m => { const b = m.getBoundingClientRect(); return [b.width, b.height]; })"
)


def formulas_are_drawn(page):
    boxes = page.locator("math").evaluate_all(BOXES)
    assert boxes and all(width > 3 and height > 5 for width, height in boxes)
    assert page.evaluate("document.fonts.check('16px \"STIX Two Math\"')")


@needs_sphinx
@pytest.mark.browser
def test_a_page_opens_with_its_formulas_and_asks_nobody(small, visit):
    page, wrong = visit(small / "index.html")
    formulas_are_drawn(page)
    fraction = mathml_size(page, r"mrow.box"), mathml_size(page, "mtable")
    assert min(min(size) for size in fraction) > 15
    page.locator(".sidebar-tree a", has_text="afnp.networks.masks").click()
    page.locator("dt", has_text="mask(").first.wait_for()
    formulas_are_drawn(page)
    assert wrong == []


def mathml_size(page, selector):
    box = page.locator(selector).first.bounding_box()
    return box["width"], box["height"]


# ---- all of it -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The whole site, by its command; SITE=FOLDER takes one that has been built."""
    if "SITE" in os.environ:
        return Path(os.environ["SITE"]).resolve()
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "lessons.web", "--out", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ pages, \d+ links, \d+ s$", done.stdout, flags=re.M)
    return out / "html"


@needs_sphinx
@pytest.mark.lessons
def test_the_command_builds_everything(site):
    assert links.check(site, skipped="live").problems == []
    for path in (ROOT / "lessons").glob("[0-9][0-9]_*.ipynb"):
        page = (site / "lessons" / f"{path.stem}.html").read_text()
        assert "cell_output" in page, path.name
        assert path.name.startswith("00") or "exercises are right" in page, path.name
    for path in (ROOT / "figures").glob("[0-9][0-9]_*.py"):
        assert (site / "figures" / f"{path.stem}.html").is_file()
    chain_rule = (site / "reference" / "afnp.chain_rule.html").read_text()
    assert "ArrayLike" in chain_rule and "_SupportsArray" not in chain_rule
    univariates = (site / "reference" / "afnp.univariate.html").read_text()
    assert "<p>K: how many" in univariates  # what a property says is whole


PAGES = (
    "index",
    "explainer",
    "lessons/02_from_conditionals_to_a_flow",
    "figures/03_jacobian",
    "reference/index",
    "reference/afnp.compiled",
)


def pushed(page):
    """How many pixels a page is wider than its window."""
    return page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


@needs_sphinx
@pytest.mark.browser
@pytest.mark.parametrize("path", PAGES)
def test_pages_of_every_kind_in_a_browser(site, visit, path):
    page, wrong = visit(site / f"{path}.html")
    if page.locator("math").count():
        formulas_are_drawn(page)
    assert wrong == []
    for image in page.locator("article img").all():
        image.scroll_into_view_if_needed()
        assert image.evaluate("image => image.complete && image.naturalWidth > 50")
    assert pushed(page) <= 0
    page.set_viewport_size({"width": 390, "height": 800})
    assert pushed(page) <= 0, "must be pushed sideways on a telephone"


BROKEN = """async () => {
    const broken = [];
    for (const image of document.querySelectorAll("article img")) {
        image.loading = "eager";
        try { await image.decode(); } catch (error) { broken.push(image.src); }
    }
    return broken;
}"""


LEFT = r"""() => {
    const found = [];
    const article = document.querySelector("article") || document.body;
    const texts = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    for (let node; (node = texts.nextNode()); ) {
        if (node.parentElement.closest("pre, code, script, style, math, .sig")) continue;
        const raw = /\\[a-zA-Z]{2,}|\$[^$]+\$|:[a-z]+:`|`|\*\*\w[^*]*\*\*|\]\(|[_^]\{|^\.\. \w+::/;
        if (raw.test(node.textContent)) found.push(node.textContent.trim());
    }
    return found;
}"""
"""Texts in which TeX, reStructuredText or Markdown is left as it was written."""

BROKEN_NAMES = """all => all.filter(n => n.getClientRects().length > 1).map(n => n.textContent)"""


@needs_sphinx
@pytest.mark.browser
def test_every_page_fits_a_telephone_and_has_its_pictures(site, visit):
    paths = [path.relative_to(site) for path in sorted(site.rglob("*.html"))]
    paths = [path for path in paths if path.parts[0] not in ("_modules", "live")]
    page, wrong = visit(site / paths[0])
    page.set_viewport_size({"width": 390, "height": 800})
    for path in paths:
        page.goto((site / path).as_uri())
        assert page.evaluate(BROKEN) == [], path
        assert pushed(page) <= 0, f"{path} must be pushed sideways on a telephone"
        assert page.evaluate(LEFT) == [], path
        names = page.locator("table.names td:first-child code")
        assert names.evaluate_all(BROKEN_NAMES) == [], path
        assert wrong == [], path


@needs_sphinx
@pytest.mark.browser
@pytest.mark.parametrize(
    "path", ["README", "figures/index", "lessons/02_from_conditionals_to_a_flow"]
)
def test_dark_pages_have_no_white_pictures(site, browser, path):
    page = browser.new_page(color_scheme="dark")
    page.goto((site / f"{path}.html").as_uri())
    shown = page.locator("article img").evaluate_all(
        "all => all.map(i => getComputedStyle(i).filter)"
    )
    page.close()
    assert shown and all("invert" in filter for filter in shown)


@needs_sphinx
@pytest.mark.browser
@pytest.mark.parametrize("path", ["figures/27_patches", "lessons/08_the_other_way_round"])
def test_dark_pages_say_that_their_pictures_are_turned(site, browser, path):
    for scheme in ("dark", "light"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((site / f"{path}.html").as_uri())
        note = page.get_by_text("Dark pages turn pictures round")
        assert note.count() == 1 and note.is_visible() == (scheme == "dark")
        page.close()


@needs_sphinx
@pytest.mark.lessons
def test_the_gallery_shows_every_figure(site):
    drawn = re.findall(
        r'<img alt="[^"]+".*?src="([^"]+)"', (site / "figures/index.html").read_text()
    )
    assert len(drawn) == len(gallery.names())
    for name in gallery.names():
        assert "Not drawn yet" not in (site / "figures" / f"{name}.html").read_text(), name


def drag(page, slider):
    """Take a slider by its knob, and pull it to the end that is further away."""
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    value, most = slider.evaluate("node => [Number(node.value), Number(node.max)]")
    y, end = box["y"] + box["height"] / 2, 0 if value > most / 2 else 1
    page.mouse.move(box["x"] + 8 + value / most * (box["width"] - 16), y)
    page.mouse.down()
    page.mouse.move(box["x"] + 2 + end * (box["width"] - 4), y, steps=6)
    page.mouse.up()


@needs_sphinx
@pytest.mark.browser
def test_every_moving_picture_of_the_lessons_moves(site, visit):
    moving = 0
    for path in sorted((site / "lessons").glob("[0-9][0-9]_*.html")):
        asked = path.read_text().count('class="moves"')
        if not asked:
            continue
        page, wrong = visit(path)
        for figure in page.locator("div.moves").all():
            image = figure.locator("img")
            before = image.get_attribute("src")
            control = figure.locator("input[type=range], select").first
            if control.evaluate("node => node.tagName") == "SELECT":
                control.select_option(index=1)
            else:
                drag(page, control)
            assert image.get_attribute("src") != before, path.name
            assert image.evaluate("image => image.decode().then(() => image.naturalWidth > 50)")
            moving += 1
        assert wrong == []
    played = [p.read_text().count("easel.play(") for p in (ROOT / "lessons").glob("[0-9]*.ipynb")]
    assert moving == sum(played)


@needs_sphinx
@pytest.mark.browser
def test_the_front_page_is_one_screen_and_search_works_from_disk(site, visit):
    page, _ = visit(site / "index.html")
    assert page.evaluate("document.querySelector('article').getBoundingClientRect().height") < 1000
    page.goto((site / "search.html").as_uri() + "?q=substitution")
    page.locator("#search-results li a").first.wait_for()
