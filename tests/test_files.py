"""Files: what is written comes back to the last bit, and what is not sound is refused,
whatever it is."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import socket
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import afnp
from afnp import atomic, bases, files, networks, transforms
from afnp.files import ModelFileError, load, read, save, write
from afnp.flow import Flow
from afnp.params import Layout
from afnp.transforms.preprocess import Standardize
from afnp.univariate import Affine

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions, signals, limits")


def randomized(flow, seed=0):
    """The flow with random parameters, and a few awkward ones: -0.0, the tiniest number,
    a large one."""
    theta = np.random.default_rng(seed).standard_normal(flow.theta.size)
    theta[:3] = -0.0, np.finfo(flow.dtype).smallest_subnormal, 1e30
    flow.theta = theta
    return flow


def small():
    return randomized(afnp.made(2, hidden=(3,)))


def craft(path, header, payload=b""):
    """A container with a correct checksum around any header: what an attacker, or another program,
    may write."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = files.MAGIC + struct.pack("<II", files.VERSION, len(text)) + text + payload
    path.write_bytes(body + hashlib.sha256(body).digest())
    return path


def header_of(flow):
    return {"kind": "model", "arrays": [["theta", "<f8", [flow.theta.size]]], "flow": flow.config()}


def layer(**changes):
    """The header of a small model, with its one layer changed."""
    header = header_of(small())
    header["flow"]["layers"][0].update(changes)
    return header


def whole(**changes):
    """The same, with the flow changed."""
    header = header_of(small())
    header["flow"].update(changes)
    return header


# ---- round trips ---------------------------------------------------------------------------------

rows = np.random.default_rng(0).uniform(0, 17, (50, 3))
FLOWS = {
    "plain": lambda: afnp.maf(3, hidden=(8, 8), transforms=2),
    "one feature": lambda: afnp.made(1, hidden=(4,)),
    "linear": lambda: afnp.made(3, hidden=()),
    "random order": lambda: afnp.maf(5, hidden=(8,), transforms=3, order="random", seed=4),
    "given order": lambda: afnp.made(3, hidden=(8,), order=[2, 0, 1]),
    "context": lambda: afnp.maf(3, hidden=(8,), transforms=2, context=2),
    "residual": lambda: afnp.made(3, hidden=(8, 8, 8), residual=True),
    "tanh": lambda: afnp.made(3, hidden=(8,), activation="tanh"),
    "standardised": lambda: afnp.made(3, hidden=(8,), preprocess=afnp.preprocessing(rows)),
    "image": lambda: afnp.made(
        3, hidden=(8,), preprocess=afnp.preprocessing(rows, levels=17, alpha=0.01)
    ),
    "float32": lambda: afnp.maf(
        3, hidden=(8,), dtype=np.float32, preprocess=afnp.preprocessing(rows)
    ),
    "lossy": lambda: afnp.made(4, hidden=(1,)),
    "no parameters": lambda: Flow([Standardize([0.1], [0.3])]),
}


@pytest.fixture(params=FLOWS)
def flow(request):
    if request.param == "lossy":
        with pytest.warns(UserWarning, match="legal dependencies impossible"):
            return FLOWS["lossy"]()
    flow = FLOWS[request.param]()
    flow.theta = 0.3 * np.random.default_rng(1).standard_normal(flow.theta.size)
    return flow


def test_round_trip_is_exact(flow, tmp_path):
    save(flow, tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.config() == flow.config() and again.dtype == flow.dtype
    assert again.theta.tobytes() == flow.theta.tobytes()
    x = np.random.default_rng(2).uniform(1, 16, (20, flow.features))
    c = np.random.default_rng(3).standard_normal((20, flow.context)) if flow.context else None
    assert again.log_prob(x, c).tobytes() == flow.log_prob(x, c).tobytes()
    assert (
        again.sample(20, rng=5, context=c).tobytes() == flow.sample(20, rng=5, context=c).tobytes()
    )
    if flow.theta.size:
        (loss, grad), (loss2, grad2) = flow.loss_and_grad(x, c), again.loss_and_grad(x, c)
        assert loss == loss2 and grad.tobytes() == grad2.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_awkward_numbers_survive(dtype, tmp_path):
    flow = randomized(afnp.made(2, hidden=(3,), dtype=dtype))
    save(flow, tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.theta.tobytes() == flow.theta.tobytes()
    again.theta[0] = 1.0  # ours, and writeable


def test_saving_twice_gives_the_same_bytes(tmp_path):
    save(small(), tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_masks_are_recomputed_not_loaded(tmp_path):
    """The file holds parameters and configuration alone;
    what lies above a staircase is never read."""
    flow = afnp.made(3, hidden=(4,))
    x = rows[:5]
    before = flow.log_prob(x)
    layer, p = flow.layers[0], flow.split(flow.theta)[0]
    for linear in layer.conditioner.linears:
        W = p[linear.W]
        W[np.arange(W.shape[1]) >= linear.prefix[:, None]] = 1e3
    save(flow, tmp_path / "m")
    header, arrays = read(tmp_path / "m", "model")
    assert list(arrays) == ["theta"]
    assert np.array_equal(load(tmp_path / "m").log_prob(x), before)

    header["flow"]["layers"][0]["order"] = [1, 2, 0]
    again = load(
        craft(
            tmp_path / "other",
            {k: header[k] for k in ("kind", "arrays", "flow")},
            flow.theta.tobytes(),
        )
    )
    assert np.array_equal(
        again.layers[0].allowed(), afnp.made(3, (4,), order=[1, 2, 0]).layers[0].allowed()
    )


def test_a_loaded_lossy_flow_does_not_warn_again(tmp_path):
    with pytest.warns(UserWarning):
        flow = afnp.made(4, hidden=(1,))
    save(flow, tmp_path / "m")
    assert load(tmp_path / "m").features == 4


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.arange(10.0)[::2],
        np.arange(6, dtype=">f8"),
        np.arange(6, dtype=np.int64),
        np.float32([[1, 2], [3, 4]]),
        np.zeros((0, 3)),
        np.array([np.nan, np.inf, -0.0]),
        np.array(3.0),
    ],
    ids=[
        "transposed",
        "strided",
        "big-endian",
        "int64",
        "float32",
        "empty",
        "not finite",
        "scalar",
    ],
)
def test_any_layout_of_an_array_survives(array, tmp_path):
    write(tmp_path / "c", "checkpoint", {"note": ["é", 1.5, None]}, {"a": array, "b": np.ones(1)})
    header, arrays = read(tmp_path / "c", "checkpoint")
    assert header["note"] == ["é", 1.5, None]
    assert arrays["a"].shape == array.shape and arrays["a"].dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(arrays["a"], array)
    assert arrays["a"].flags.writeable


# ---- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "m"
    save(small(), path)
    return path.read_bytes()


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        load(path)
    assert type(caught.value) is ModelFileError and str(path) in str(caught.value)
    return str(caught.value)


def test_truncated_anywhere(sound, tmp_path):
    messages = {refused(tmp_path / "m", sound[:n]).split(": ")[1] for n in range(len(sound))}
    assert messages >= {
        "truncated",
        "not an afnp file (it does not begin with the afnp magic bytes)",
    }


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_every_byte_altered(sound, tmp_path, flip):
    for k in range(len(sound)):
        refused(tmp_path / "m", sound[:k] + bytes([sound[k] ^ flip]) + sound[k + 1 :])


@settings(max_examples=200, deadline=None)
@given(edit=st.tuples(st.integers(0, 600), st.integers(0, 40), st.binary(max_size=40)))
def test_any_edit(sound, tmp_path_factory, edit):
    start, length, new = edit
    changed = sound[:start] + new + sound[start + length :]
    if changed != sound:
        refused(tmp_path_factory.getbasetemp() / "edited", changed)


@pytest.mark.parametrize("extra", [b"\0", b"x" * 1000])
def test_oversized(sound, tmp_path, extra):
    assert "oversized" in refused(tmp_path / "m", sound + extra)


FOREIGN = {
    "empty": b"",
    "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "text": b"this is not a model\n" * 10,
    "pickle": pickle.dumps({"theta": [1.0] * 10}),
    "npy": b"\x93NUMPY\x01\x00v\x00" + bytes(200),
    "zip": b"PK\x03\x04" + bytes(200),
    "newlines translated": files.MAGIC.replace(b"\r\n", b"\n") + bytes(200),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign(tmp_path, content):
    assert "not an afnp file" in refused(tmp_path / "m", content)


def test_nothing_is_ever_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    bomb = pickle.dumps(Bomb())
    refused(tmp_path / "m", bomb)
    refused(
        tmp_path / "m",
        files.MAGIC + struct.pack("<II", files.VERSION, len(bomb)) + bomb + bytes(32),
    )
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("version", [0, 1, 3, 2**32 - 1])
def test_another_version(sound, tmp_path, version):
    body = sound[:8] + struct.pack("<I", version) + sound[12:-32]
    message = refused(tmp_path / "m", body + hashlib.sha256(body).digest())
    assert f"format version {version}; this afnp reads version 2" in message


def test_another_kind(tmp_path):
    afnp.fit(small(), rows[:, :2], epochs=1, progress=False, checkpoint=tmp_path / "c")
    with pytest.raises(ModelFileError, match="expected a model, got a checkpoint"):
        load(tmp_path / "c")
    save(small(), tmp_path / "m")
    with pytest.raises(ModelFileError, match="expected a checkpoint, got a model"):
        read(tmp_path / "m", "checkpoint")


def test_no_such_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")
    with pytest.raises(OSError):
        load(tmp_path)


# ---- headers that lie, under a correct checksum --------------------------------------------------

theta = ["theta", "<f8", [4]]
ENTRIES = {
    "twice the same name": [theta, theta],
    "no such type": [["theta", "<f2", [4]]],
    "object type": [["theta", "|O", [4]]],
    "type in a list": [["theta", ["<f8"], [4]]],
    "negative": [["theta", "<f8", [-4]]],
    "fraction": [["theta", "<f8", [4.0]]],
    "two entries": [["theta", "<f8"]],
    "four entries": [["theta", "<f8", [4], 1]],
    "number": [7],
    "null": None,
    "name in a list": [[["theta"], "<f8", [4]]],
    "larger than any memory": [["theta", "<f8", [2**47, 2**47]]],
    "no length at all": [["theta", "<f8", 4]],
    "shape is a mapping": [["theta", "<f8", {}]],
    "shape of truth values": [["theta", "<f8", [True]]],
    "a hundred axes": [["theta", "<f8", [1] * 100]],
    "huge axes times zero": [["theta", "<f8", [2**47, 2**47, 2**47, 0]]],
}


@pytest.mark.parametrize("arrays", ENTRIES.values(), ids=ENTRIES)
def test_array_listings_that_make_no_sense(tmp_path, arrays):
    for length in (0, 8, 32, 64):
        path = craft(tmp_path / "m", {"kind": "model", "arrays": arrays, "flow": {}}, bytes(length))
        with pytest.raises(ModelFileError):
            load(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_headers_are_utf_8(tmp_path, encoding):
    """What a header may hold is counted in its bytes."""
    flow = small()
    text = json.dumps(header_of(flow))
    load(craft(tmp_path / "m", text.encode(), flow.theta.tobytes()))
    with pytest.raises(ModelFileError, match="the header is not readable"):
        load(craft(tmp_path / "m", text.encode(encoding), flow.theta.tobytes()))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"3", b'"arrays"', b"{", b"\xff\xfe", b'{"arrays": []', b"{}", b"null"]
)
def test_headers_that_are_no_object(tmp_path, text):
    with pytest.raises(ModelFileError):
        load(craft(tmp_path / "m", text))


CONFIGURATIONS = {
    "no such layer": layer(type="Nonsense"),
    "unhashable layer": layer(type=[]),
    "no such univariate": layer(univariate="nonsense"),
    "no such activation": layer(activation="nonsense"),
    "unhashable activation": layer(activation=[]),
    "an argument too many": layer(nonsense=1),
    "order no permutation": layer(order=[0, 0]),
    "order too long": layer(order=[0, 1, 2]),
    "residual of two": layer(residual=True, hidden=[3, 3]),
    "width zero": layer(hidden=[0]),
    "width negative": layer(hidden=[-3]),
    "width in words": layer(hidden="three"),
    "bound negative": layer(options={"bound": -1.0}),
    "bound beyond a float": layer(options={"bound": 10**400}),
    "option unknown": layer(options={"knots": 3}),
    "features none": layer(features=None),
    "features negative": layer(features=-2),
    "other parameters": layer(hidden=[4]),
    "half precision": whole(dtype="float16"),
    "another precision": whole(dtype="float32"),
    "no layers": whole(layers=[]),
    "layers in words": whole(layers="two"),
    "layers by name": whole(layers={"a": 1}),
    "layers of numbers": whole(layers=[1, 2]),
    "no context": {**whole(), "flow": {"layers": small().config()["layers"], "dtype": "float64"}},
    "flow a list": {**whole(), "flow": [1]},
    "constants of two lengths": whole(
        layers=[{"type": "Standardize", "mean": [0.0], "std": [1.0, 1.0]}]
    ),
    "deviation zero": whole(layers=[{"type": "Standardize", "mean": [0.0], "std": [0.0]}]),
    "constants no numbers": whole(layers=[{"type": "Standardize", "mean": ["a"], "std": ["b"]}]),
    "one level": whole(layers=[{"type": "Dequantize", "features": 2, "levels": 1}]),
    "alpha one half": whole(layers=[{"type": "Logit", "features": 2, "alpha": 0.5}]),
    "features differ": whole(
        layers=[{"type": "Logit", "features": 2}, {"type": "Logit", "features": 3}]
    ),
    "width beyond memory": layer(hidden=[2**40]),
    "features beyond memory": layer(features=2**40),
    "width of a million": layer(hidden=[2**20]),
    "widths multiply": layer(hidden=[2000, 2000, 2000]),
    "features in floating point": layer(features=1e7),
    "a hundred wide constants": whole(
        layers=[{"type": "Dequantize", "features": 2**18, "levels": 4}] * 100
    ),
    "constant beyond a float": whole(
        layers=[{"type": "Standardize", "mean": [-(10**400)], "std": [1.0]}]
    ),
    "dtype that does not parse": whole(dtype="(1 2)f4,f4"),
    "context of the flow alone": whole(context=3),
    "context in words": whole(context="three"),
    "features as a fraction": layer(features=2.0),
}


@pytest.mark.parametrize("header", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_configurations_that_make_no_sense_cost_nothing(tmp_path, header):
    path = craft(tmp_path / "m", header, small().theta.tobytes())
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="does not describe a flow"):
            load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20e6  # what a sound file of 2**20 parameters might take is allowed


@pytest.mark.parametrize("features", [0, "3"])
def test_features_that_make_no_sense(tmp_path, features):
    flow = {"context": 0, "dtype": "float64", "layers": [{"type": "Logit", "features": features}]}
    with pytest.raises(ModelFileError):
        load(
            craft(
                tmp_path / "m", {"kind": "model", "arrays": [["theta", "<f8", [0]]], "flow": flow}
            )
        )


def test_parameters_that_are_not_finite(tmp_path):
    theta = small().theta
    theta[1] = np.nan
    with pytest.raises(ModelFileError):
        load(craft(tmp_path / "m", whole(), theta.tobytes()))


def nested(where, depth):
    header = whole()
    {"header": header, "arrays": header, "flow": header["flow"], "layers": header["flow"]}[where][
        "x" if where in ("header", "flow") else where
    ] = "HOLE"
    return json.dumps(header).replace('"HOLE"', "[" * depth + "]" * depth).encode()


@pytest.mark.parametrize("where", ["header", "arrays", "flow", "layers"])
def test_deep_nesting(tmp_path, where):
    """Nesting is harmless, where nobody looks, or refused."""
    for depth in (10, *range(300, 1000, 50), 100_000):
        try:
            load(craft(tmp_path / "m", nested(where, depth), small().theta.tobytes()))
        except ModelFileError:
            continue
        assert where in ("header", "flow")


# ---- classes of the user's own -------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch):
    """Registries that forget what a test has put in."""
    registries = (transforms.TRANSFORMS, bases.BASES, networks.NETWORKS)
    for registry in registries:
        for name in set(registry) - {"Mine"}:
            monkeypatch.setitem(registry, name, registry[name])
        monkeypatch.delitem(registry, "Mine", raising=False)
    yield
    for registry in registries:
        registry.pop("Mine", None)


def scaling(**members):
    """A transform of one's own: u = e^s x."""

    class Mine(transforms.Transform):
        def __init__(self, features):
            self.features = features
            self.layout = Layout({"s": (features,)})

        @classmethod
        def count(cls, config):
            return config["features"]

        def normalize(self, p, x, context):
            return x * np.exp(p["s"]), np.full(len(x), p["s"].sum()), None

    for name, member in members.items():
        setattr(Mine, name, member)
    return Mine


def test_a_transform_of_ones_own_is_saved_and_loaded(own, tmp_path):
    flow = Flow([scaling()(3)])
    flow.theta = [1.0, 2.0, 3.0]
    save(flow, tmp_path / "m")
    again = load(tmp_path / "m")
    assert np.array_equal(again.log_prob(np.ones((2, 3))), flow.log_prob(np.ones((2, 3))))
    scaling()  # a notebook's cell, run once more
    assert type(load(tmp_path / "m").layers[0]) is not type(flow.layers[0])
    transforms.TRANSFORMS.pop("Mine")
    with pytest.raises(ModelFileError, match="no transform 'Mine' is known; import the module"):
        load(tmp_path / "m")


@pytest.mark.parametrize(
    "members, said",
    [
        ({"count": classmethod(lambda cls, config: 0)}, r"0 parameters do not go with theta of"),
        ({"config": lambda self: {}}, "'features' is missing"),
        ({"config": lambda self: {"features": self.features, "more": 1}}, "argument 'more'"),
        ({"config": lambda self: {"features": np.int64(self.features)}}, "not JSON serializable"),
    ],
    ids=["no count", "too little said", "too much said", "no plain value"],
)
def test_a_transform_that_could_not_be_loaded_is_not_saved(own, tmp_path, members, said):
    with pytest.raises(ValueError, match=f"could not be loaded again.*{said}.*nothing was saved"):
        save(Flow([scaling(**members)(3)]), tmp_path / "m")
    assert not any(tmp_path.iterdir())


def test_a_transform_whose_config_leaves_something_out_is_not_saved(own, tmp_path):
    """It would be loaded as another flow, in silence."""

    def init(self, features, times=1.0):
        self.features, self.times = features, times
        self.layout = Layout({"s": (features,)})

    def normalize(self, p, x, context):
        u, log_det = x * self.times, np.full(len(x), x.shape[1] * np.log(self.times))
        return u, log_det, None

    Mine = scaling(__init__=init, normalize=normalize, config=lambda self: {"features": 2})
    save(Flow([Mine(2)]), tmp_path / "m")
    assert load(tmp_path / "m").layers[0].times == 1
    for model in (Flow([Mine(2, 3.0)]), afnp.FlowEnsemble([Flow([Mine(2)]), Flow([Mine(2, 3.0)])])):
        with pytest.raises(ValueError, match="one of another density.*nothing was saved"):
            save(model, tmp_path / "m")

    def full(self):
        return {"features": self.features, "times": self.times}

    save(Flow([scaling(__init__=init, normalize=normalize, config=full)(2, 3.0)]), tmp_path / "m")
    assert load(tmp_path / "m").layers[0].times == 3


@pytest.mark.parametrize("at", [1, 4, 20])
def test_what_a_config_leaves_out_is_seen_far_out_too(at, own, tmp_path):
    """Beyond ``at`` the map has another slope; the class says its features only."""

    class Mine(transforms.Transform):
        def __init__(self, features, at=1e9):
            self.features, self.at = features, at

        def normalize(self, p, x, context):
            beyond = np.abs(x) - self.at
            u = np.where(beyond > 0, np.sign(x) * (self.at + 3 * beyond), x)
            return u, ((beyond > 0) * np.log(3)).sum(axis=1), None

        def config(self):
            return {"features": self.features}

    save(Flow([Mine(2)]), tmp_path / "m")
    doors = [save, afnp.interop.safetensors.save] if find_spec("safetensors") else [save]
    for k, door in enumerate(doors):
        with pytest.raises(ValueError, match="one of another density.*nothing was saved"):
            door(Flow([Mine(2, at)]), tmp_path / f"other{k}")
        assert not (tmp_path / f"other{k}").exists()


def behind_bounds():
    """A layer of one's own, of which only rows inside distant bounds know anything."""

    class Mine(transforms.Autoregressive):
        def __init__(self, *parts, times=1.0, **more):
            super().__init__(*parts, **more)
            self.times = times

        def normalize(self, p, x, context):
            u, log_det, kept = super().normalize(p, self.times * x, context)
            return u, log_det + x.shape[1] * np.log(self.times), kept

        def generate(self, p, u, context):
            x, log_det = super().generate(p, u, context)
            return x / self.times, log_det - u.shape[1] * np.log(self.times)

    x = np.random.default_rng(0).uniform(420, 680, (99, 2))
    front = afnp.preprocessing(x, bounds=[(400, 700)] * 2)
    return Flow([*front, Mine(networks.MaskedMLP(2, 2, (4,)), Affine(), times=2.0)])


def with_a_network():
    class Mine(networks.MaskedMLP):
        def __init__(self, *sizes, times=1.0, **more):
            super().__init__(*sizes, **more)
            self.times = times

        def forward(self, p, context, x):
            h, kept = super().forward(p, context, x)
            return self.times * h, kept

    return Flow([transforms.Autoregressive(Mine(2, 2, (4,), times=2.0), Affine())])


def with_a_density():
    class Mine(Flow):
        def log_prob(self, *rows, **how):
            return super().log_prob(*rows, **how) + 1

    return Mine(afnp.made(2, hidden=(3,)).layers)


def with_noise():
    class Mine(bases.StandardNormal):
        def __init__(self, features, times=1.0):
            super().__init__(features)
            self.times = times

        def sample(self, p, n, rng, dtype):
            return self.times * super().sample(p, n, rng, dtype)

    return afnp.made(2, hidden=(3,), base=Mine(2, times=2.0))


@pytest.mark.parametrize("model", [behind_bounds, with_a_network, with_a_density, with_noise])
def test_what_would_be_loaded_as_another_flow_is_not_saved(own, tmp_path, model):
    """Wherever the class of one's own stands, and wherever its rows lie; samples count too."""
    with pytest.raises(ValueError, match="one of another density.*nothing was saved"):
        save(model(), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_flow_of_ones_own_that_only_adds_is_saved_as_a_flow(tmp_path):
    class Mine(Flow):
        def mean(self):
            return self.sample(9).mean(axis=0)

    flow = Mine(afnp.made(2, hidden=(3,)).layers)
    save(flow, tmp_path / "m")
    assert (load(tmp_path / "m").sample(9).mean(axis=0) == flow.mean()).all()


def test_noise_that_no_seed_repeats_tells_nothing(own, tmp_path):
    class Mine(bases.StandardNormal):
        own = np.random.default_rng(0)

        def sample(self, p, n, rng, dtype):
            return self.own.standard_normal((n, self.features))

    save(afnp.made(2, hidden=(3,), base=Mine(2)), tmp_path / "m")
    assert type(load(tmp_path / "m").base) is Mine


def test_a_name_that_is_taken_is_not_saved(own, tmp_path):
    """A class of the name of ours would be rebuilt as ours."""
    Logit = type("Logit", (scaling(),), {"__module__": "elsewhere"})
    assert transforms.TRANSFORMS["Logit"] is not Logit
    with pytest.raises(ValueError, match="could not be loaded again"):
        save(Flow([Logit(3)]), tmp_path / "m")


def test_noise_of_ones_own(own, tmp_path):
    class Mine(bases.StandardNormal):
        pass

    save(afnp.made(2, hidden=(3,), base=Mine(2)), tmp_path / "m")
    assert type(load(tmp_path / "m").base) is Mine
    bases.BASES.pop("Mine")
    with pytest.raises(ModelFileError, match="no base 'Mine' is known; import the module"):
        load(tmp_path / "m")


# ---- memory --------------------------------------------------------------------------------------


def test_a_size_is_believed_only_after_it_was_compared(tmp_path):
    """A header that declares 256 TB is refused before anything of that size is asked for."""
    tracemalloc.start()
    try:
        for shape in ([2**45], [2**20, 2**20], [2**47]):
            with pytest.raises(ModelFileError, match="truncated"):
                load(
                    craft(
                        tmp_path / "m",
                        {"kind": "model", "arrays": [["theta", "<f8", shape]], "flow": {}},
                    )
                )
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_a_header_length_is_believed_only_after_it_was_compared(tmp_path):
    for length in (2**32 - 1, 2**24 + 1, 2**24, 1000):
        message = refused(
            tmp_path / "m", files.MAGIC + struct.pack("<II", files.VERSION, length) + bytes(100)
        )
        assert "truncated or altered" in message


def test_memory_of_reading_and_writing(tmp_path):
    """No copy of the parameters but the one that is read."""
    a = np.random.default_rng(0).standard_normal(500_000)
    tracemalloc.start()
    try:
        write(tmp_path / "c", "checkpoint", {}, {"a": a})
        read(tmp_path / "c", "checkpoint")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * a.nbytes
    finally:
        tracemalloc.stop()


# ---- what is not written -------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_save_refuses_parameters_that_are_not_finite(tmp_path, value):
    flow = small()
    flow.theta[7] = value
    with pytest.raises(ValueError, match="theta: entry 7 is not finite; nothing was saved"):
        save(flow, tmp_path / "m")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, np.int64(3)])
def test_write_refuses_a_header_that_is_not_json(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write(tmp_path / "c", "checkpoint", {"value": value}, {})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "header, arrays",
    [
        ({"x": "y" * 2**24}, {}),
        ({"x": [0] * (2**20 + 2)}, {}),
        ({"x": [[]] * 2**17}, {}),
        ({"x": dict.fromkeys(range(2**16))}, {}),
        ({}, {"a": np.zeros(2, np.float16)}),
        ({}, {"a": np.array(["text"])}),
    ],
    ids=[
        "header above 16 MiB",
        "too many values",
        "too many lists",
        "too many keys",
        "half precision",
        "text",
    ],
)
def test_write_refuses_what_read_would_refuse(tmp_path, header, arrays):
    with pytest.raises(ValueError):
        write(tmp_path / "c", "checkpoint", header, arrays)
    assert not any(tmp_path.iterdir())


def test_a_flow_built_with_numpy_integers_can_be_saved(tmp_path):
    save(afnp.maf(np.int64(2), hidden=(4,), context=np.int64(1)), tmp_path / "m")
    assert load(tmp_path / "m").features == 2


WIDE = {
    "maf, float32": lambda: afnp.maf(64, hidden=(512, 512), transforms=3, dtype=np.float32),
    "maf": lambda: afnp.maf(30, hidden=(700, 700), transforms=2),
    "realnvp": lambda: afnp.realnvp(30, hidden=(700, 700), transforms=2),
    "lu": lambda: Flow([transforms.LULinear(1000)]),
    "tarflow": lambda: afnp.tarflow(64, width=128, heads=8, blocks=2, transforms=2),
    "wavenet": lambda: afnp.wavenet_flow(100, channels=128, layers=8, transforms=2),
    "discrete made": lambda: afnp.DiscreteMADE(200, levels=4, hidden=(800,)),
    "ensemble": lambda: afnp.FlowEnsemble([afnp.maf(30, hidden=(500, 500))] * 2),
}


@pytest.mark.parametrize("name", WIDE)
def test_load_takes_at_most_twice_the_file(tmp_path, name):
    """A linear layer once took four times the file, for the indices of its triangles."""
    save(WIDE[name](), tmp_path / "m")
    size = (tmp_path / "m").stat().st_size
    tracemalloc.start()
    try:
        flow = load(tmp_path / "m")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert flow.features and size > 1e6 and peak < 1.6 * size


# ---- writing is all or nothing -------------------------------------------------------------------


def fail(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, step):
    save(small(), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            save(randomized(small(), 1), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@posix
def test_a_full_disk_leaves_the_old_file(tmp_path):
    """The real thing: the kernel cuts the file at 4 kB."""
    import resource

    save(small(), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    big = afnp.made(2, hidden=(1000,))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError):
            save(big, tmp_path / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "m").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    save(small(), tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(randomized(small(), 1), tmp_path / "m")
    monkeypatch.undo()
    assert (tmp_path / "m").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        save(small(), tmp_path / "nowhere" / "m")


def test_a_folder_of_that_name(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(OSError):
        save(small(), tmp_path / "m")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


WRITER = """
import sys, numpy as np, afnp
flow = afnp.made(2, hidden=(60_000,))
for k in range(10**9):
    flow.theta[:] = k
    afnp.save(flow, sys.argv[1])
    print(k, flush=True)
"""


@posix
def test_kill_9_leaves_a_sound_file(tmp_path):
    """Killed at random moments of writing 3 MB again and again: the old model or the new one,
    whole."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "m"], stdout=subprocess.PIPE, text=True
        )
        first = writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        writer.kill()
        last = (first + writer.communicate()[0]).split()[-1]
        theta = load(tmp_path / "m").theta
        assert (theta == theta[0]).all() and theta[0] in (int(last), int(last) + 1)
        leftovers = [p.name for p in tmp_path.iterdir() if p.name != "m"]
        assert len(leftovers) <= 1 and all(name.startswith(".afnp-") for name in leftovers)
    save(small(), tmp_path / "another")
    assert {p.name for p in tmp_path.iterdir()} == {"m", "another"}


@posix
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_new_file_obeys_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        save(small(), tmp_path / "m")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "m").stat().st_mode & 0o777 == mode


@posix
def test_an_overwritten_file_keeps_its_permissions(tmp_path):
    save(small(), tmp_path / "m")
    (tmp_path / "m").chmod(0o600)
    save(small(), tmp_path / "m")
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o600


@posix
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "there" / "m")
    save(small(), tmp_path / "m")
    assert (tmp_path / "m").is_symlink() and load(tmp_path / "there" / "m").features == 2


# ---- what is no regular file, and names
# -----------------------------------------------------------


def special(path, kind):
    """Make something that is no regular file; return what must be closed in the end."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        return listener
    elif kind == "device":
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("NOT TRIED: only root makes a device")
    return None


@posix
@pytest.mark.parametrize("through_a_link", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_special_files_are_refused_and_stay(monkeypatch, tmp_path, kind, through_a_link):
    """Neither replaced by a file nor waited for; a pipe without a writer would block for ever."""
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    held = special(Path("there"), kind)
    if through_a_link:
        Path("m").symlink_to("there")
    path = Path("m" if through_a_link else "there")
    before = path.stat()
    for action in (lambda: save(small(), path), lambda: load(path)):
        with pytest.raises(ValueError, match=f"{path}: a {kind}; expected a regular file"):
            action()
    after = path.stat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert len(os.listdir()) == 1 + through_a_link
    if held:
        held.close()


@posix
def test_the_null_device_survives():
    before = os.stat(os.devnull)
    with pytest.raises(ValueError, match="/dev/null: a device"):
        save(small(), os.devnull)
    assert os.stat(os.devnull).st_ino == before.st_ino
    with pytest.raises(ModelFileError, match="/dev/zero: a device"):
        load("/dev/zero")


@posix
def test_links_that_lead_nowhere_yet_or_in_a_circle(tmp_path):
    (tmp_path / "m").symlink_to(tmp_path / "later")
    save(small(), tmp_path / "m")
    assert (tmp_path / "m").is_symlink() and load(tmp_path / "later").features == 2
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(OSError, match="round"):
        save(small(), tmp_path / "round")


@posix
@pytest.mark.parametrize("length", [1, 245, 246, 250, 255])
def test_names_as_long_as_the_system_allows(tmp_path, length):
    path = tmp_path / ("n" * length)
    save(small(), path)
    assert load(path).features == 2 and os.listdir(tmp_path) == [path.name]
    with pytest.raises(OSError, match="n" * 256):
        save(small(), tmp_path / ("n" * 256))


@posix
@pytest.mark.parametrize("name", [b"m", "m\u00e9".encode(), b"m\xff"])
def test_paths_in_bytes(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + name
    save(small(), path)
    assert load(path).features == 2 and os.listdir(os.fsencode(tmp_path)) == [name]


@pytest.mark.parametrize("path", [3, None, "a\0b"])
def test_what_is_no_path_is_named(path):
    for action in (lambda: save(small(), path), lambda: load(path)):
        with pytest.raises(ValueError, match="path: expected"):
            action()


@pytest.mark.parametrize("step", ["fsync", "replace", "write"])
def test_errors_carry_the_name(tmp_path, monkeypatch, step):
    if step == "write":

        class Full:
            def __init__(self, descriptor, mode):
                self.descriptor = descriptor

            def __enter__(self):
                return self

            def __exit__(self, *error):
                os.close(self.descriptor)

            def write(self, part):
                fail()

        monkeypatch.setattr(os, "fdopen", Full)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError) as caught:
        save(small(), tmp_path / "m")
    assert caught.value.filename == str(tmp_path / "m") and caught.value.errno == 28
    assert not any(tmp_path.iterdir())


@posix
def test_what_is_refused_after_the_file_is_in_place_is_no_failure(tmp_path, monkeypatch):
    """A file system that knows no modes or owners, and one that syncs no folders."""
    save(small(), tmp_path / "m")
    sync = os.fsync

    def sync_of_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            fail()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_of_files)
    monkeypatch.setattr(os, "chmod", fail)
    monkeypatch.setattr(os, "chown", fail)
    save(randomized(small(), 1), tmp_path / "m")
    assert np.array_equal(load(tmp_path / "m").theta, randomized(small(), 1).theta)


def test_only_what_no_writer_holds_is_removed(tmp_path):
    """A temporary file whose writer lives stays, and so does a file of somebody else."""
    path = tmp_path / f".afnp-{'0' * 16}.tmp"
    descriptor, living = atomic._create(str(tmp_path), 0o600)
    path.write_bytes(b"of a dead writer")
    (tmp_path / ".afnp-mine.tmp").write_bytes(b"")
    save(small(), tmp_path / "m")
    left = {p.name for p in tmp_path.iterdir()}
    os.close(descriptor)
    assert left == {"m", ".afnp-mine.tmp", os.path.basename(living)}
    save(small(), tmp_path / "m")
    assert {p.name for p in tmp_path.iterdir()} == {"m", ".afnp-mine.tmp"}


@pytest.mark.slow
def test_many_writers_of_one_file(tmp_path):
    """Sixteen threads write and read one path: always whole, and nothing is left."""
    thetas = [randomized(small(), k).theta for k in range(16)]

    def work(k):
        for _ in range(50):
            flow = small()
            flow.theta = thetas[k]
            save(flow, tmp_path / "m")
            got = load(tmp_path / "m").theta
            assert any(np.array_equal(got, theta) for theta in thetas)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert os.listdir(tmp_path) == ["m"]
