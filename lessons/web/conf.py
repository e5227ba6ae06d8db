"""Sphinx's settings; the sources that they apply to are written by ``lessons.web.sources``."""

import functools
import os
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

project = "afnp"
author = "the afnp developers"
html_title = "afnp"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "lessons.web.maths",
    "lessons.web.prose",
]
exclude_patterns = ["lessons/exercises", "lessons/solutions", "lessons/download"]
default_role = "py:obj"
highlight_language = "none"
pygments_dark_style = "monokai"

# Maths: drawn by the browser from MathML, with a font that lies beside the pages.
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.header",  # an exercise is a third-level heading wherever it stands
    "ref.python",  # words such as `dtype` are the names of several attributes
]

# Lessons: run from fresh kernels, in their own folder. A lesson that fails fails the build.
nb_execution_mode = os.environ.get("AFNP_SITE_EXECUTION", "cache")
nb_execution_cache_path = os.environ.get("AFNP_SITE_CACHE", "")
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
nb_output_stderr = "remove"  # what is said of compiling; tests refuse all else
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # by default scripts from another host
nb_mime_priority_overrides = [
    ("html", "application/vnd.jupyter.widget-view+json", None),  # the still picture instead
]

# The reference: what the docstrings say.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_type_aliases = {name: name for name in ("ArrayLike", "DTypeLike")}  # not spelled out
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_js_files = ["moves.js"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}


def setup(app):
    """Give the formulas their font, and [source] and [docs] their ways there and back."""
    import ziamath

    fonts = Path(ziamath.__file__).parent / "fonts"
    app.config.html_static_path.append(str(fonts / "STIXTwoMath-Regular.ttf"))
    app.connect("autodoc-process-docstring", _letters, priority=100)
    app.connect("autodoc-process-docstring", _keep, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-docstring", _restore, priority=600)
    app.connect("autodoc-skip-member", _made_elsewhere)
    app.connect("viewcode-follow-imported", _defining_module)
    app.connect("html-page-context", _links_back)


def _letters(app, what, name, thing, options, lines):
    """Keep *D.* from being the fourth item of a list."""
    lines[:] = [re.sub(r"^(\s*)([A-Z]\.)(\s|$)", r"\1\\\2\3", line) for line in lines]


def _keep(app, what, name, thing, options, lines):
    """Remember what an attribute says: napoleon takes what precedes a colon for a type."""
    if what in ("property", "attribute"):
        KEPT[name] = list(lines)


def _restore(app, what, name, thing, options, lines):
    if what in ("property", "attribute"):
        lines[:] = KEPT.pop(name)


KEPT: dict[str, list[str]] = {}


def _made_elsewhere(app, what, name, thing, skip, options):
    """Leave out what scikit-learn adds to its estimators."""
    return True if re.fullmatch(r"(set|get)_\w*(_request|metadata_routing)", name) else None


def _defining_module(app, module, name):
    from lessons.web.reference import definer

    return None if "." in name else definer(module, name)


def _links_back(app, page, template, context, doctree):
    """Mend [docs] where a module's names are described under two modules: viewcode knows one."""
    if not page.startswith("_modules/afnp"):
        return
    described = app.env.domaindata["py"]["objects"]
    module = page.removeprefix("_modules/").replace("/", ".")

    def mended(link):
        names = (name for name in _addresses(link[2], module) if name in described)
        places = (described[name] for name in names)
        linked = Path(link[1]).stem
        place = next((place for place in places if Path(place.docname).name == linked), None)
        return f'{link[1]}#{place.node_id}"' if place else link[0]

    context["body"] = re.sub(r'(href="[^"#]*)#(afnp[\w.]*)"', mended, context["body"])


def _addresses(name, module):
    """Yield a full name, then what its end may be called in a module or the packages around it."""
    yield name
    parts, words = module.split("."), name.split(".")
    for first in range(1, len(words)):
        for k in range(len(parts), 0, -1):
            yield ".".join([*parts[:k], *words[first:]])
        home = _homes().get(f"{module}.{words[first]}")
        if home:
            yield ".".join([home, *words[first:]])


@functools.cache
def _homes():
    from lessons.web.reference import homes

    return homes()
