"""The names of the doors: all under ``afnp.interop``, opened when named, and nothing before."""

from __future__ import annotations

import configparser
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import afnp

ASKED = {
    "from_flowjax",
    "from_nflows",
    "from_normflows",
    "from_sbi",
    "from_zuko",
    "to_onnx",
    "to_zuko",
}
"""What a user of another library looks for first."""

FOREIGN = ("torch", "zuko", "nflows", "normflows", "jax", "sbi", "onnx", "sklearn", "dask")
FOREIGN += ("pandas", "safetensors")


ROOT = Path(__file__).parents[1]


def told(code):
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_fresh_import_opens_no_door():
    code = "import sys, afnp, afnp.interop; dir(afnp.interop); afnp.interop.from_zuko\n"
    assert told(f"{code}print(set({FOREIGN!r}) & set(sys.modules))") == "set()"


def test_every_name_is_that_of_its_module():
    assert ASKED <= set(afnp.interop.__all__) <= set(dir(afnp.interop))
    for name, door in afnp.interop.DOORS.items():
        try:
            module = importlib.import_module(f"afnp.interop.{door}")
        except ModuleNotFoundError as missing:
            with pytest.raises(ImportError, match=f"needs {missing.name}, .*pip install"):
                getattr(afnp.interop, name)
            continue
        assert name in module.__all__ and getattr(afnp.interop, name) is getattr(module, name)
        assert getattr(afnp.interop, door) is module


MISSING = {
    "to_onnx": ("onnx", "to_onnx needs onnx, which is not installed: pip install 'afnp[onnx]'"),
    "dask": ("dask", "dask needs dask, which is not installed: pip install 'afnp[dask]'"),
    "FlowDensity": ("sklearn", "which is not installed: pip install 'afnp[sklearn]'"),
    "to_frame": ("pandas", "needs pandas, which is not installed: pip install pandas"),
    "to_zuko(afnp.maf(2))": (
        "torch",
        "needs torch, which is not installed: pip install 'afnp[zuko]'",
    ),
}


@pytest.mark.parametrize("what", MISSING)
def test_a_missing_extra_is_named_with_the_command_that_brings_it(what):
    library, message = MISSING[what]
    code = f"import sys; sys.modules[{library!r}] = None\nimport afnp\n"
    code += f"try:\n    afnp.interop.{what}\nexcept ImportError as error:\n    print(error)"
    assert message in told(code)


def test_what_is_no_door_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'afnp.interop' has no attribute 'from_keras'"):
        _ = afnp.interop.from_keras


# ---- extras --------------------------------------------------------------------------------------


def extras():
    """What each extra of ``setup.cfg`` asks for."""
    cfg = configparser.ConfigParser()
    cfg.read(ROOT / "setup.cfg", encoding="utf-8")
    return {name: set(text.split()) for name, text in cfg["options.extras_require"].items()}


def gathered(extra):
    """The extras that an extra consists of."""
    (those,) = [line for line in extras()[extra] if line.startswith("afnp[")]
    return set(those[len("afnp[") : -1].split(","))


def test_every_door_has_an_extra_and_one_brings_them_all():
    doors = set(afnp.interop.DOORS.values()) - {"frames"} | {"dask", "safetensors"}
    assert doors <= set(extras())
    assert gathered("interop") == doors


def test_extras_that_are_named_exist():
    cited = re.compile(r"(?:afnp|\.)\[([a-z,]+)\]'|extras? `([a-z]+)`(?:, `([a-z]+)`)?")
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "afnp").rglob("*.md")]
    texts = [path.read_text(encoding="utf-8") for path in [*pages, *(ROOT / "afnp").rglob("*.py")]]
    found = cited.findall("\n".join(texts))
    named = {name for names in found for part in names if part for name in part.split(",")}
    assert len(named) > 12 and named <= set(extras())
    assert all(gathered(name) <= set(extras()) for name in ("interop", "test", "flows", "all"))
