"""Adapters: flows of other libraries are checked as they come, and their known errors are found.

Run these in an environment with the extra ``bench``; without it they skip, and say which library is
missing.
"""

import numpy as np
import pytest

from afnp.verify import adapt, check_flow

QUICK = {
    "level": "quick",
    "checks": ["log_det", "round_trip", "antisymmetry", "deterministic", "agreement"],
}


def stirred(module, seed=0):
    """Move every parameter: what starts near the identity hides most errors."""
    torch = pytest.importorskip("torch", reason="NOT TESTED: pip install torch")
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    return module


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("name", ["MAF", "NSF", "NCSF"])
def test_zuko(name, context):
    zuko = pytest.importorskip("zuko", reason="NOT TESTED: pip install zuko")
    flow = stirred(getattr(zuko.flows, name)(2, context, transforms=2, hidden_features=(8, 8)))
    found = adapt(flow)
    assert (found["features"], found["context"], found["dtype"]) == (2, context, np.float64)
    report = check_flow(flow, **QUICK)
    assert report.ok and not report.not_run, f"\n{report}"
    assert "caller's jacobian" in report["log_det"].why
    assert "empty batch" in check_flow(flow, checks=["shapes"], level="quick")["shapes"].reason


def test_nflows():
    pytest.importorskip("nflows", reason="NOT TESTED: pip install nflows")
    from nflows.flows.autoregressive import MaskedAutoregressiveFlow

    report = check_flow(stirred(MaskedAutoregressiveFlow(3, 8, 2, 1)), **QUICK)
    assert report.ok and not report.not_run, f"\n{report}"


def test_nflows_with_a_context_that_its_first_feature_never_sees():
    pytest.importorskip("nflows", reason="NOT TESTED: pip install nflows")
    from nflows.distributions import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import MaskedAffineAutoregressiveTransform

    flow = stirred(
        Flow(MaskedAffineAutoregressiveTransform(3, 8, context_features=2), StandardNormal([3]))
    )
    assert adapt(flow)["context"] == 2
    every = np.hstack([np.ones((3, 2), dtype=bool), np.tri(3, dtype=bool)])
    checks = [*QUICK["checks"], "connectivity"]
    report = check_flow(flow, **{**QUICK, "checks": checks}, allowed=every)
    assert report.failed == ["connectivity"], f"\n{report}"
    assert report["connectivity"].worst["output"] == 0 and report["connectivity"].worst["input"] < 0


@pytest.mark.parametrize("context", [0, 2])
def test_normflows(context):
    nf = pytest.importorskip("normflows", reason="NOT TESTED: pip install normflows")
    base = nf.distributions.DiagGaussian(3, trainable=False)
    layers = [
        nf.flows.MaskedAffineAutoregressive(3, 8, context_features=context or None)
        for _ in range(2)
    ]
    flow = stirred((nf.ConditionalNormalizingFlow if context else nf.NormalizingFlow)(base, layers))
    assert adapt(flow)["features"] == 3 and adapt(flow)["context"] == context
    report = check_flow(flow, **QUICK)
    assert report.ok and not report.not_run, f"\n{report}"


@pytest.mark.parametrize("context", [0, 2])
def test_flowjax(context):
    flows = pytest.importorskip("flowjax.flows", reason="NOT TESTED: pip install flowjax")
    import jax
    from flowjax.distributions import StandardNormal

    base = {
        "base_dist": StandardNormal((3,)),
        "cond_dim": context or None,
        "flow_layers": 2,
        "nn_width": 8,
    }
    flow = flows.masked_autoregressive_flow(jax.random.key(0), **base)
    found = adapt(flow)
    assert (found["features"], found["context"], found["dtype"]) == (3, context, np.float64)
    report = check_flow(flow, **QUICK)
    assert report.ok and not report.not_run, f"\n{report}"


def test_the_flow_that_was_given_stays_as_it_was():
    zuko = pytest.importorskip("zuko", reason="NOT TESTED: pip install zuko")
    torch = pytest.importorskip("torch", reason="NOT TESTED: pip install torch")
    flow = zuko.flows.MAF(2, transforms=1).train()
    check_flow(flow, checks=["log_det"], level="quick")
    assert flow.training and {p.dtype for p in flow.parameters()} == {torch.float32}
    assert torch.get_default_dtype() == torch.float32


def test_samples_come_from_the_generator_that_is_given():
    zuko = pytest.importorskip("zuko", reason="NOT TESTED: pip install zuko")
    flow = zuko.flows.MAF(2, transforms=1)
    report = check_flow(flow, checks=["randomness"], level="quick")
    assert report.ok, f"\n{report}"


class Shift:
    """What TensorFlow Probability calls a bijector: x = u + 1."""

    def forward(self, u):
        return u + 1

    def inverse(self, x):
        return x - 1

    def forward_log_det_jacobian(self, u, event_ndims):
        return np.zeros(len(u))

    def inverse_log_det_jacobian(self, x, event_ndims):
        return np.zeros(len(x))


class Transformed:
    """The face of a transformed distribution."""

    bijector, distribution, event_shape = Shift(), None, (2,)

    def __init__(self, factor=1.0):
        self.factor = factor

    def log_prob(self, x):
        return (-((x - 1.0) ** 2) / 2 - np.log(2 * np.pi) / 2).sum(axis=1).astype(np.float64)

    def sample(self, n, seed):
        return 1 + self.factor * np.random.default_rng(seed).standard_normal((n, 2))


def test_whatever_looks_like_a_transformed_distribution():
    assert check_flow(Transformed(), level="quick").ok
    report = check_flow(Transformed(factor=0.2), level="quick")
    assert report.failed == ["agreement", "noise"] and report.subject.startswith(
        "Transformed: 2 features"
    )


class Moved:
    """A bijector with a context, x = 2 u + c, whose log-determinant is one number for all rows."""

    def forward(self, u, conditional_input):
        return 2 * u + conditional_input

    def inverse(self, x, conditional_input):
        return (x - conditional_input) / 2

    def forward_log_det_jacobian(self, u, event_ndims, conditional_input):
        return u.shape[1] * np.log(2.0)

    def inverse_log_det_jacobian(self, x, event_ndims, conditional_input):
        return -x.shape[1] * np.log(2.0)


class Conditional(Transformed):
    """The face of a transformed distribution that hands a context on, and says its type."""

    bijector, dtype = Moved(), np.float64

    def log_prob(self, x, bijector_kwargs):
        u = self.bijector.inverse(x, **bijector_kwargs)
        return (-(u**2) / 2 - np.log(2 * np.pi) / 2).sum(axis=1) - 2 * np.log(2.0)

    def sample(self, n, seed, bijector_kwargs):
        u = np.random.default_rng(seed).standard_normal((n, 2))
        return self.bijector.forward(self.factor * u, **bijector_kwargs)


def test_a_context_of_a_transformed_distribution_is_its_conditional_input():
    report = check_flow(Conditional(), context=2, level="quick")
    assert report.ok and {"agreement", "log_det", "shapes"} <= set(report.passed), f"\n{report}"
    assert check_flow(Conditional(0.5), context=2, level="quick").failed == ["agreement", "noise"]


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # TFP's splines, for int64
@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_tensorflow_probability_on_jax(kind):
    pytest.importorskip("jax", reason="NOT TESTED: pip install jax==0.4.35")
    tfp = pytest.importorskip(
        "tensorflow_probability.substrates.jax",
        reason="NOT TESTED: pip install tensorflow-probability",
        exc_type=(ImportError, AttributeError),
    )
    b = tfp.bijectors
    ones = np.ones(2, dtype=np.float32)
    spline = b.RationalQuadraticSpline(ones, ones, ones[:1] / 2, range_min=-1)
    steps = [b.Shift(ones), b.Scale(2 * ones) if kind == "affine" else spline]
    base = tfp.distributions.MultivariateNormalDiag(0 * ones)
    found = adapt(tfp.distributions.TransformedDistribution(base, b.Chain(steps)))
    assert (found["features"], found["context"], found["dtype"]) == (2, 0, np.float32)
    report = check_flow(found, level="quick", checks=["log_det", "round_trip", "shapes"])
    assert report.ok and not report.not_run, f"\n{report}"
    draws = [found["sample"](3, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all() and (draws[0] != draws[2]).all()


def test_what_is_no_flow_is_refused():
    with pytest.raises(ValueError, match="expected a flow of afnp, zuko.*; got builtins.list"):
        check_flow([1, 2])
