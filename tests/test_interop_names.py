"""The names of the doors: all under ``afnp.interop``, opened when named, and nothing before."""

from __future__ import annotations

import importlib
import subprocess
import sys

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
