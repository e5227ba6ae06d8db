"""ONNX: density and sampler equal the flow's, by two independent runtimes;
what cannot go is named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import afnp

pytest.importorskip("onnx", reason="ONNX IS MISSING: pip install '.[onnx]'")

import onnx
from onnx.reference import ReferenceEvaluator

from afnp.interop.onnx import density_model, sampler_model, to_onnx

D = 4
ROWS = np.random.default_rng(0).standard_normal((200, D)) * [1, 2, 3, 4] + [5, 0, -5, 100]
SHAPE = {"hidden": (16, 16), "dtype": "float32"}
FLOWS = {
    "made": lambda: afnp.made(D, **SHAPE),
    "maf": lambda: afnp.maf(D, transforms=3, order="random", **SHAPE),
    "maf, preprocessed": lambda: afnp.maf(D, preprocess=afnp.preprocessing(ROWS), **SHAPE),
    "maf, context": lambda: afnp.maf(D, transforms=2, context=3, activation="tanh", **SHAPE),
    "maf, residual": lambda: afnp.maf(
        D, (16, 16, 16), transforms=2, residual=True, dtype="float32"
    ),
    "maf, between": lambda: afnp.maf(D, transforms=2, between=("batchnorm", "lu"), **SHAPE),
    "maf, exp": lambda: afnp.maf(D, transforms=2, options={"scale": "exp"}, **SHAPE),
    "maf, softplus": lambda: afnp.maf(D, transforms=2, options={"scale": "softplus"}, **SHAPE),
    "maf, elu": lambda: afnp.maf(D, transforms=2, activation="elu", **SHAPE),
    "iaf": lambda: afnp.iaf(D, transforms=2, **SHAPE),
    "iaf, sigmoid": lambda: afnp.iaf(D, transforms=2, options={"scale": "sigmoid"}, **SHAPE),
    "realnvp": lambda: afnp.realnvp(D, transforms=4, context=2, **SHAPE),
    "nice": lambda: afnp.nice(D, **SHAPE),
    "nsf": lambda: afnp.nsf(D, transforms=2, between="permutation", **SHAPE),
    "nsf, coupling": lambda: afnp.nsf(D, transforms=4, coupling=True, bins=5, **SHAPE),
    "nsf, context": lambda: afnp.nsf(D, transforms=2, context=2, **SHAPE),
    "made, context": lambda: afnp.made(D, context=2, **SHAPE),
    "iaf, context": lambda: afnp.iaf(D, transforms=2, context=2, **SHAPE),
    "nice, context": lambda: afnp.nice(D, context=2, **SHAPE),
    "nsf, coupling, context": lambda: afnp.nsf(D, transforms=2, coupling=True, context=2, **SHAPE),
    "context in its units": lambda: scaled(afnp.maf(D, transforms=2, context=2, **SHAPE)),
    "bounds": lambda: afnp.maf(D, transforms=2, preprocess=bounded(), **SHAPE),
    "mixture": lambda: afnp.maf_mog(D, transforms=2, components=5, **SHAPE),
    "mixture, context": lambda: afnp.maf_mog(D, transforms=1, context=2, **SHAPE),
    "mixture, inverse": lambda: afnp.iaf(
        2, transforms=1, univariate=afnp.univariate.GaussianMixture(3), **SHAPE
    ),
    "mixture of logistics": lambda: afnp.realnvp(
        D, transforms=2, univariate=afnp.univariate.LogisticMixture(4), **SHAPE
    ),
    "circle": lambda: afnp.nsf(D, transforms=2, circular=True, bins=5, **SHAPE),
    "circle, coupling": lambda: afnp.nsf(
        D, transforms=3, circular=True, coupling=True, context=2, **SHAPE
    ),
    "one feature": lambda: afnp.nsf(1, transforms=2, context=1, **SHAPE),
}


def bounded():
    """A feature without ends, one with a low end, one with a high end, and one with both."""
    bounds = {1: (-20.0, None), 2: (None, 20.0), 3: (80.0, 120.0)}
    return afnp.preprocessing(ROWS, bounds=bounds)


def scaled(flow):
    flow.standardize_context([[0.5, -1.0], [1.5, 2.0]])
    return flow


@pytest.fixture(scope="module", params=FLOWS)
def case(request):
    """A flow with parameters that hide nothing, noise, and a context where it takes one."""
    flow, rng = FLOWS[request.param](), np.random.default_rng(1)
    flow.theta = flow.theta + 0.2 * rng.standard_normal(flow.theta.size)
    u = flow.base.sample({}, 100, rng, np.float32)
    given = {}
    if flow.context:
        given["context"] = rng.standard_normal((100, flow.context)).astype(np.float32)
    return flow, u, given


def reference(model):
    return ReferenceEvaluator(model).run


def runtime(model):
    ort = pytest.importorskip("onnxruntime", reason="ONNXRUNTIME IS MISSING")
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run


def close(got, expected, periodic=False):
    """To 1e-5 in units of the largest value; -pi is close to pi where angles are compared."""
    assert got.shape == expected.shape and got.dtype == np.float32
    apart = np.abs(got - expected)
    if periodic:
        apart = np.minimum(apart, np.abs(2 * np.pi - apart))
    assert apart.max() <= 1e-5 * (1 + np.abs(expected).max())


@pytest.mark.parametrize("run", [reference, runtime])
def test_density_and_sampler_are_the_flows(case, run):
    flow, u, given = case
    x = flow.generate(u, **given)[0]
    (found,) = run(sampler_model(flow))(["x"], {"u": u, **given})
    circle = flow.base.periodic
    close(found, x, circle)
    x = x.astype(np.float32)
    log_prob, noise = run(density_model(flow))(["log_prob", "u"], {"x": x, **given})
    close(log_prob, flow.log_prob(x, **given))
    close(noise, flow.normalize(x, **given)[0], circle)


@pytest.mark.parametrize("n", [1, 7])
def test_any_number_of_rows_goes_through(case, n):
    flow, u, given = case
    given = {name: values[:n] for name, values in given.items()}
    (x,) = reference(sampler_model(flow))(["x"], {"u": u[:n], **given})
    close(x, flow.generate(u[:n], **given)[0], flow.base.periodic)


def test_far_out_and_beyond_a_splines_end():
    flow = afnp.nsf(2, hidden=(8,), transforms=1, dtype="float32")
    x = np.array([[1e3, -1e3], [4.0, -4.0], [3.9999, 0.0]], dtype=np.float32)
    log_prob, _ = reference(density_model(flow))(None, {"x": x})
    close(log_prob, flow.log_prob(x))


def test_outside_the_support_the_density_is_zero():
    layers = afnp.preprocessing(np.arange(40.0).reshape(20, 2) % 16, levels=16)
    flow = afnp.made(2, hidden=(4,), dtype="float32", preprocess=layers)
    x = np.array([[3.5, 8.1], [-1.0, 3.0], [3.0, 17.0]], dtype=np.float32)
    log_prob, _ = reference(density_model(flow))(None, {"x": x})
    assert (log_prob[1:] == -np.inf).all()
    close(log_prob[:1], flow.log_prob(x[:1]))


@pytest.mark.parametrize("run", [reference, runtime])
def test_bounds_hold_however_far_the_noise_is(run):
    layers = bounded()
    flow = afnp.Flow(layers, dtype="float32")
    u = np.array([[0.0] * D, [90.0] * D, [-90.0] * D], dtype=np.float32)
    (x,) = run(sampler_model(flow))(["x"], {"u": u})
    assert (x[:, 1] > -20).all() and (x[:, 2] < 20).all()
    assert (x[:, 3] > 80).all() and (x[:, 3] < 120).all()
    outside = np.repeat(x[:1], 4, axis=0)
    outside[0, 1], outside[1, 2], outside[2, 3], outside[3, 3] = -20, 21, 80, 130
    log_prob, _ = run(density_model(flow))(None, {"x": outside})
    assert (log_prob == -np.inf).all()
    log_prob, _ = run(density_model(flow))(None, {"x": x[:1]})
    close(log_prob, flow.log_prob(x[:1]))


@pytest.mark.parametrize("run", [reference, runtime])
@pytest.mark.parametrize("kind", ["GaussianMixture", "LogisticMixture"])
def test_mixtures_are_right_far_out(kind, run):
    """Where a distribution function is 0 or 1 to rounding."""
    univariate = getattr(afnp.univariate, kind)(3)
    flow = afnp.made(1, hidden=(4,), univariate=univariate, dtype="float32")
    flow.theta = flow.theta + 0.3 * np.random.default_rng(2).standard_normal(flow.theta.size)
    u = np.array([[-12.0], [-7.0], [0.0], [1e-3], [6.0], [12.0]], dtype=np.float32)
    x = flow.generate(u)[0]
    (found,) = run(sampler_model(flow))(["x"], {"u": u})
    close(found, x)
    log_prob, noise = run(density_model(flow))(None, {"x": x})
    close(log_prob, flow.log_prob(x))
    close(noise, u)


@pytest.mark.parametrize("run", [reference, runtime])
def test_where_the_circle_closes(run):
    flow = afnp.nsf(2, hidden=(8,), transforms=2, circular=True, dtype="float32")
    flow.theta = flow.theta + 0.3 * np.random.default_rng(2).standard_normal(flow.theta.size)
    edge = np.float32(np.pi)
    x = np.array([[-edge, 1.0], [np.nextafter(edge, np.float32(0)), 1.0]], dtype=np.float32)
    log_prob, noise = run(density_model(flow))(None, {"x": x})
    close(log_prob, flow.log_prob(x))
    close(noise, flow.normalize(x)[0], periodic=True)
    assert abs(log_prob[0] - log_prob[1]) < 1e-4


def test_no_number_becomes_an_integer(case):
    for model in (density_model(case[0]), sampler_model(case[0])):
        bodies = [a.g for node in model.graph.node for a in node.attribute if a.name == "body"]
        kinds = {node.op_type for graph in (model.graph, *bodies) for node in graph.node}
        assert not kinds & {"Cast", "Round", "Floor", "Ceil"}


def test_two_files_are_written_and_read(tmp_path):
    flow = afnp.maf(3, hidden=(8,), transforms=2)
    density, sampler = to_onnx(flow, tmp_path / "f.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {density.name, sampler.name}
    x = flow.sample(5, rng=0).astype(np.float32)
    log_prob, _ = reference(onnx.load(density))(None, {"x": x})
    assert log_prob == pytest.approx(flow.log_prob(x), abs=1e-4)


def test_a_graph_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    flow = afnp.maf(3, hidden=(8,), transforms=2)
    other = afnp.maf(3, hidden=(8,), transforms=2, seed=1)
    other.theta = other.theta + 0.1
    model = sampler_model(other)
    monkeypatch.setattr("afnp.interop.onnx.sampler_model", lambda flow: model)
    with pytest.raises(ArithmeticError, match="x: the graph and the flow differ by"):
        to_onnx(flow, tmp_path / "f.onnx")
    assert not list(tmp_path.iterdir())


REFUSED = {
    "attention": (lambda: afnp.tarflow(4, width=8, heads=2, blocks=1), "network CausalTransformer"),
    "clipped": (
        lambda: afnp.maf(2, hidden=(4,), univariate="clipped_spline"),
        "univariate ClippedSpline",
    ),
    "base": (lambda: afnp.made(2, hidden=(4,), base=afnp.bases.Logistic(2)), "base: .*Logistic"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_named(case, tmp_path):
    make, message = REFUSED[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = make()
    with pytest.raises(ValueError, match=message):
        to_onnx(flow, tmp_path / "f.onnx")
