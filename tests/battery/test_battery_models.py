"""Model files that lie: a ModelFileError, or a model that is what its file says."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections import Counter
from functools import partial

import numpy as np
import pytest
from corruption import alterations, packed, replaced, unpacked
from models import MODELS

import afnp
from afnp.bases import BASES
from afnp.files import ModelFileError
from afnp.networks import NETWORKS, CausalConv
from afnp.transforms import TRANSFORMS
from afnp.univariate import UNIVARIATES

SECONDS, MEMORY = 5.0, 50e6
"""What no file of some kB may take."""

KINDS = {**TRANSFORMS, **NETWORKS, **BASES, **UNIVARIATES}
"""What a model file can name."""

NEVER = {"Feedforward", "Conditioned", "Gated", "MLP", "GatedMLP", "Conditionals"}
"""Networks that files do not name: others are made of them."""


def test_together_the_models_name_everything_that_files_can_name():
    text = "".join(json.dumps(build().config()) for build in MODELS.values())
    assert [name for name in KINDS if f'"{name}"' not in text and name not in NEVER] == []


def saved(path, name):
    model = MODELS[name]()
    rng = np.random.default_rng(0)
    for member in model.flows if isinstance(model, afnp.FlowEnsemble) else [model]:
        member.theta = 0.3 * rng.standard_normal(member.theta.size)
    afnp.save(model, path)
    return path.read_bytes(), model


def outcome(path, content, model):
    """Load a file; return how it ended, and fail where that is none of the right ends."""
    path.write_bytes(content)
    try:
        loaded = afnp.load(path)
    except ModelFileError as error:
        assert str(path) in str(error)
        return "refused"
    if loaded.config() == model.config():
        assert loaded.theta.tobytes() == model.theta.tobytes()
        return "equal"
    # another sound model of as many parameters: it is saved as it came, and it works
    afnp.save(loaded, path)
    assert unpacked(path.read_bytes()) == unpacked(content)
    context = np.zeros((1, loaded.context)) if loaded.context else None
    try:
        assert loaded.sample(2, rng=0, context=context).shape == (2, loaded.features)
    except FloatingPointError:
        return "another model, beyond its precision"
    return "another model"


def tried(name, tmp_path, every):
    content, model = saved(tmp_path / "m", name)
    header, payload = unpacked(content)
    counts, slowest = Counter(), 0.0
    for k, (path, change, text) in enumerate(alterations(header)):
        if k % every:
            continue
        began = time.process_time()
        try:
            with np.errstate(all="ignore"):
                end = outcome(tmp_path / "m", packed(text, payload), model)
        except Exception as error:
            raise AssertionError(f"{path} {change}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.process_time() - began)
        counts[end] += 1
    print(f"\n{name}: {sum(counts.values())} headers, {dict(counts)}, slowest {slowest:.2f} s")
    assert slowest < SECONDS
    return counts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_some_altered_headers(name, tmp_path):
    assert sum(tried(name, tmp_path, every=41).values()) > 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_every_altered_header(name, tmp_path):
    assert sum(tried(name, tmp_path, every=1).values()) > 700


def with_layer(flow, k, **changes):
    """A flow's header with one layer changed."""
    header = {
        "kind": "model",
        "arrays": [["theta", "<f8", [flow.theta.size]]],
        "flow": flow.config(),
    }
    for name, value in changes.items():
        header = replaced(header, ("flow", "layers", k, *name.split(".")), value)
    return header, flow.theta.tobytes()


def with_base(**changes):
    flow = MODELS["heavy tails"]()
    header, payload = with_layer(flow, 0)
    for name, value in changes.items():
        header = replaced(header, ("flow", "base", name), value)
    return header, payload


def alone(layers, count=0, features=None, **flow):
    """The header of a flow of these layers."""
    base = {"type": "StandardNormal", "features": features or layers[0]["features"]}
    config = {"context": 0, "dtype": "float64", "layers": layers, "base": base, **flow}
    header = {"kind": "model", "arrays": [["theta", "<f8", [count]]], "flow": config}
    return header, bytes(8 * count)


def masked(features=10**8, **changes):
    """A layer of a masked network of very many features."""
    layer = MODELS["made"]().config()["layers"][0]
    net = {**layer["conditioner"], "features": features, **changes}
    return {**layer, "conditioner": net}


def series(features):
    """A flow of convolutions, whose parameters do not depend on the number of steps."""
    flow = afnp.wavenet_flow(4, channels=3, layers=2, transforms=1)
    layer = flow.config()["layers"][0]
    layer["conditioner"]["features"] = features
    return alone([layer], flow.theta.size, features)


tarflow = MODELS["tarflow"]
wavenet = MODELS["wavenet"]
NETS = {
    "the masked network": ("maf with a context", 0),
    "contexts added": ("contexts added", 0),
    "contexts as gates": ("contexts as gates", 0),
    "contexts as gates, last": ("contexts as gates", 1),
    "a graph": ("graph", 0),
}


def nested(kind, name, value):
    """A header with one number of a network within a layer changed."""
    model, k = NETS[kind]
    return with_layer(MODELS[model](), k, **{f"conditioner.{name}": value})


BOMBS = {
    **{
        f"{kind}, {name} of {str(value)[:30]}": partial(nested, kind, name, value)
        for kind in NETS
        for name, value in [
            ("features", 10**9),
            ("context", 2**31),
            ("numbers", 2**31),
            ("hidden", [2**31]),
            ("hidden", [2**31, 3, 2**31]),
            ("hidden", [0] * 10**5),
            ("hidden", [1] * 10**5),
        ]
    },
    "gates, context 2**31": lambda: with_layer(MODELS["couplings with gates"](), 0, context=2**31),
    "gates, features 10**9": lambda: with_layer(
        MODELS["couplings with gates"](), 0, features=10**9
    ),
    "a graph of many features": lambda: nested("a graph", "parents", [[]] * 10**5),
    "a prediction of 1e9 steps": lambda: with_layer(
        MODELS["linear prediction"](), 0, features=10**9
    ),
    "free splines of 1e9 bins": lambda: with_layer(
        MODELS["contexts as gates"](), 1, **{"univariate.bins": 10**9}
    ),
    "an ensemble of wide flows": lambda: (
        {
            "kind": "model",
            "arrays": [["theta", "<f8", [0]]],
            "flow": {
                "type": "FlowEnsemble",
                "flows": [alone([{"type": "Logit", "features": 2**22, "alpha": 0.1}])[0]["flow"]]
                * 1000,
            },
        },
        b"",
    ),
    "attention, context 2**31": lambda: with_layer(tarflow(), 0, **{"conditioner.context": 2**31}),
    "attention, blocks 10**9": lambda: with_layer(tarflow(), 0, **{"conditioner.blocks": 10**9}),
    "attention, width 2**40": lambda: with_layer(tarflow(), 0, **{"conditioner.width": 2**40}),
    "attention, features 10**9": lambda: with_layer(
        tarflow(), 0, **{"conditioner.features": 10**9}
    ),
    "LU of 30,000 features": lambda: alone([{"type": "LULinear", "features": 30_000}]),
    "LU of 30,000 features, in full": lambda: alone(
        [{"type": "LULinear", "features": 30_000, "order": None, "signs": None}]
    ),
    "noise of 3e7 components": lambda: with_base(components=30_000_000),
    "noise of 1e9 features": lambda: with_base(features=10**9),
    "width 0 at 1e8 features": lambda: alone([masked(hidden=[0])], features=10**8),
    "no widths at 1e8 features": lambda: alone([masked(hidden=[])], features=10**8),
    "dilations of 2**31": lambda: with_layer(wavenet(), 0, **{"conditioner.dilations": [2**31, 1]}),
    "a million dilations": lambda: with_layer(
        wavenet(), 0, **{"conditioner.dilations": [1] * 10**6}
    ),
    "a series of 1e9 steps": lambda: series(10**9),
    "a series of 2**62 steps": lambda: series(2**62),
    "channels 2**31": lambda: with_layer(wavenet(), 0, **{"conditioner.channels": 2**31}),
    "grey levels at 1e9 features": lambda: alone(
        [{"type": "Dequantize", "features": 10**9, "levels": 256}]
    ),
    "logits at 2**62 features": lambda: alone(
        [{"type": "Logit", "features": 2**62, "alpha": 1e-6}]
    ),
    "actnorm of 2**62 features": lambda: alone([{"type": "ActNorm", "features": 2**62}]),
    "10,000 layers": lambda: alone(
        [{"type": "Logit", "features": 2, "alpha": 0.1}] * 10_000, features=2
    ),
    "300,000 layers": lambda: alone(
        [{"type": "Logit", "features": 2, "alpha": 0.1}] * 300_000, features=2
    ),
    "a thousand wide layers": lambda: alone(
        [{"type": "Dequantize", "features": 60_000, "levels": 4}] * 1000
    ),
    "a coupling of 1e8 features": lambda: alone(
        [{**MODELS["realnvp"]().config()["layers"][0], "features": 10**8, "split": "half"}]
    ),
    "clipped splines of 1e9 bins": lambda: alone(
        [
            {
                **MODELS["made"]().config()["layers"][0],
                "univariate": {"type": "clipped_spline", "bins": 10**9, "bound": 5.0, "slope": 0.1},
            }
        ],
        features=4,
    ),
    "clipped circles of 1e9 bins": lambda: with_layer(
        MODELS["circles of zuko"](), 0, **{"univariate.bins": 10**9}
    ),
    "splines of 1e9 bins": lambda: with_layer(MODELS["nsf"](), 0, **{"univariate.bins": 10**9}),
    "mixtures of 1e9 components": lambda: with_layer(
        MODELS["maf_mog"](), -1, **{"univariate.components": 10**9}
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_files_that_ask_for_time_or_memory(bomb, tmp_path):
    """2 kB that would take hours, or 18 GB: refused from integers alone."""
    header, payload = BOMBS[bomb]()
    path = tmp_path / "m"
    path.write_bytes(packed(header, payload))
    size = path.stat().st_size
    began = time.process_time()
    with pytest.raises(ModelFileError):
        afnp.load(path)
    seconds = time.process_time() - began
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            afnp.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"\n{bomb}: {size:,} bytes, refused in {seconds:.2f} s with {peak / 1e6:.1f} MB")
    assert seconds < SECONDS and peak < MEMORY + 15 * size


FILLINGS = [
    b"[" * (2**24 - 60),
    b"{}," * 5_500_000,
    b"1" * (2**24 - 60),
    b'"a",' * 4_000_000,
    b"[[],",
    b"[[[]]]," * 2_390_000,
    b"1," * 8_380_000,
    b'{"a" :1},' * 1_800_000,
    (b"1" * 4000 + b",") * 4000,
]
"""Each once took up to five seconds and 600 MB, in a list that any file may have."""


@pytest.mark.parametrize("filling", FILLINGS, ids=lambda filling: filling[:8].decode())
def test_headers_of_16_mebibytes(tmp_path, filling):
    begun = json.dumps({"kind": "model", "arrays": [], "flow": MODELS["made"]().config()})
    path = tmp_path / "m"
    for text in (b'{"kind": "model", "arrays": [', begun[:-2].encode() + b', "columns": ['):
        for end in (b"", b"]}", b'0], "flow": {}}', b"0]}}"):
            path.write_bytes(packed((text + filling)[: 2**24 - 60] + end, b""))
            began = time.process_time()
            with pytest.raises(ModelFileError) as refused:
                afnp.load(path)
            assert time.process_time() - began < 1
            assert len(str(refused.value)) < 1100


def test_objects_of_many_keys_are_counted_before_they_are_read(tmp_path):
    path = tmp_path / "m"
    text = ",".join(f'"{k:x}": 1' for k in range(10**6))
    path.write_bytes(
        packed(f'{{"kind": "model", "arrays": [], "notes": {{{text}}}}}'.encode(), b"")
    )
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="at most 65536 keys"):
            afnp.load(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_series_of_eight_million_angles_takes_two_indices_a_feature(tmp_path):
    D = 2**23
    layer = {
        "type": "Autoregressive",
        "conditioner": {"type": "CausalConv", **CausalConv(4, 7, 1, [1], periodic=True).config()},
        "univariate": {"type": "circular_spline", **UNIVARIATES["circular_spline"](2).config()},
        "order": "natural",
    }
    layer["conditioner"]["features"] = D
    count = TRANSFORMS["Autoregressive"].count(layer)
    header, payload = alone([layer], count, D, base={"type": "UniformTorus", "features": D})
    (tmp_path / "m").write_bytes(packed(header, payload))
    tracemalloc.start()
    try:
        assert afnp.load(tmp_path / "m").features == D
        assert tracemalloc.get_traced_memory()[1] < 20 * D
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["contexts added", "contexts as gates"])
def test_counts_are_integers(tmp_path, name):
    """2.0 params a feature were once taken, and failed when the flow was used."""
    header, payload = with_layer(MODELS[name](), 1 if "gates" in name else 0)
    net = header["flow"]["layers"][0 if "added" in name else 1]["conditioner"]
    net["numbers"] = float(net["numbers"])
    (tmp_path / "m").write_bytes(packed(header, payload))
    with pytest.raises(ModelFileError, match="numbers: expected an integer"):
        afnp.load(tmp_path / "m")


def test_a_large_graph_takes_a_few_times_its_matrix(tmp_path):
    """A model file of 200 kB once took half a minute and more than 8 GB."""
    D = 2048
    flow = afnp.maf(D, hidden=(1,), transforms=1, structure=np.zeros((D, D)))
    afnp.save(flow, tmp_path / "m")
    began = time.process_time()
    tracemalloc.start()
    try:
        net = afnp.load(tmp_path / "m").layers[0].conditioner
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 5 and peak < 8 * D**2
    assert not net.reach().any()
