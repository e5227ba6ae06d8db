"""The site: formulas without a script, links that lead somewhere, nothing from another host;
and all of it."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree.ElementTree import fromstring

import pytest

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


def test_constants_are_described_by_the_string_below_them():
    assert reference.documentation("afnp.univariate", "UNIVARIATES").startswith("By the name")
    assert reference.definer("afnp.verify", "LEVELS") == "afnp.verify.levels"
    assert (
        reference.definer("afnp.data", "bits_per_dim") == "afnp.data.dataset"
    )  # by a relative import


# ---- a small site --------------------------------------------------------------------------------

FRONT = r"""# A small site

Inline $\log p(x) = \sum_i \log p(x_i \mid x_{<i})$, and displayed

$$\boxed{\;\log\left|\det J\right| = \sum_i \log J_{ii}\;} \qquad
J = \begin{pmatrix} a & 0 \\ b & c \end{pmatrix}$$

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
    assert 'id="afnp.networks.masks.mask"' in masks and "_modules/afnp/masks.html#mask" in masks
    assert "\\" not in re.sub(r"<(script|pre)\b.*?</\1>", "", front, flags=re.S)


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
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
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
    assert links.check(site).problems == []
    for path in (ROOT / "lessons").glob("[0-9][0-9]_*.ipynb"):
        page = (site / "lessons" / f"{path.stem}.html").read_text()
        assert "cell_output" in page, path.name
        assert path.name.startswith("00") or "exercises are right" in page, path.name
    for path in (ROOT / "figures").glob("[0-9][0-9]_*.py"):
        assert (site / "figures" / f"{path.stem}.html").is_file()


@needs_sphinx
@pytest.mark.browser
def test_pages_of_every_kind_in_a_browser(site, visit):
    for path in (
        "lessons/02_from_conditionals_to_a_flow",
        "figures/03_jacobian",
        "reference/afnp.compiled",
    ):
        page, wrong = visit(site / f"{path}.html")
        formulas_are_drawn(page)
        assert wrong == []
        for image in page.locator("article img").all():
            image.scroll_into_view_if_needed()
            assert image.evaluate("image => image.complete && image.naturalWidth > 50")
        wide = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{path} must be pushed sideways"
