"""zuko: its flows, imported, are the same flows; their univariates have the right derivatives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from conftest import complex_step

import afnp
from afnp.univariate import ClippedAffine, ClippedSpline

UNIVARIATES = {
    "affine": ClippedAffine(),
    "spline": ClippedSpline(bins=4),
    "sharp": ClippedSpline(3, 2.0, 0.1),
}


@pytest.fixture(params=UNIVARIATES)
def univariate(request):
    return UNIVARIATES[request.param]


def params(univariate, n=40, seed=0):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal((n, univariate.numbers)), 3 * rng.standard_normal(n)


def test_there_and_back(univariate):
    h, x = params(univariate)
    u, log_du, _ = univariate.normalize(h, x)
    again, log_dx = univariate.generate(h, u)
    np.testing.assert_allclose(again, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(log_dx, -log_du, rtol=1e-8, atol=1e-8)


def test_the_log_derivative_is_the_logarithm_of_the_derivative(univariate):
    h, x = params(univariate)
    slope = np.imag(univariate.normalize(h.astype(complex), x + 1e-30j)[0]) / 1e-30
    np.testing.assert_allclose(univariate.normalize(h, x)[1], np.log(slope), atol=1e-12)


def test_backward_is_the_derivative(univariate):
    """Of a random combination of u and log du/dx, by h and by x."""
    (h, x), rng = params(univariate, n=6), np.random.default_rng(1)
    d_u, d_log = rng.standard_normal((2, 6))

    def loss(h, x):
        u, log_du, _ = univariate.normalize(h, x)
        return (d_u * u + d_log * log_du).sum()

    d_h, d_x = univariate.backward(univariate.normalize(h, x)[2], d_u, d_log)
    np.testing.assert_allclose(d_h, complex_step(lambda h: loss(h, x), h), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        d_x, complex_step(lambda x: loss(h.astype(complex), x), x), rtol=1e-9, atol=1e-11
    )


# ---- flows ---------------------------------------------------------------------------------------

torch = pytest.importorskip("torch", reason="ZUKO WAS NOT TESTED: pip install torch zuko")
zuko = pytest.importorskip("zuko", reason="ZUKO WAS NOT TESTED: pip install '.[zuko]'")

from afnp.interop.zuko import from_zuko  # noqa: E402

SMALL = {"hidden_features": (16, 24)}
FLOWS = {
    "maf": lambda: zuko.flows.MAF(4, transforms=3, **SMALL),
    "maf, context": lambda: zuko.flows.MAF(4, 3, transforms=2, **SMALL),
    "maf, random orders": lambda: zuko.flows.MAF(5, transforms=3, randperm=True, **SMALL),
    "maf, tanh": lambda: zuko.flows.MAF(4, transforms=2, activation=torch.nn.Tanh, **SMALL),
    "maf, narrow": lambda: zuko.flows.MAF(6, transforms=1, hidden_features=(3,)),
    "maf, linear": lambda: zuko.flows.MAF(3, transforms=1, hidden_features=()),
    "nsf": lambda: zuko.flows.NSF(4, transforms=2, bins=5, **SMALL),
    "nsf, context": lambda: zuko.flows.NSF(3, 2, transforms=2, slope=1e-2, **SMALL),
}


@pytest.fixture(params=FLOWS)
def theirs(request):
    """A flow with parameters that hide nothing."""
    torch.manual_seed(0)
    flow = FLOWS[request.param]().double()
    with torch.no_grad():
        for values in flow.parameters():
            values += 0.3 * torch.randn_like(values)
    return flow


def test_an_imported_flow_is_the_same_flow(theirs):
    """Where afnp compares by itself, it compares in both directions; here with other rows."""
    ours = from_zuko(theirs)
    rng = np.random.default_rng(5)
    x = 2 * rng.standard_normal((50, ours.features))
    c = rng.standard_normal((50, ours.context)) if ours.context else None
    with torch.no_grad():
        expected = theirs(None if c is None else torch.from_numpy(c)).log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(ours.log_prob(x, c), expected.numpy(), rtol=1e-8, atol=1e-8)


def test_it_samples_by_substitution_and_is_saved(theirs, tmp_path):
    ours = from_zuko(theirs)
    u = np.random.default_rng(1).standard_normal((20, ours.features))
    c = np.ones((1, ours.context)) if ours.context else None
    quick, slow = (ours.generate(u, c, method=method)[0] for method in ("substitution", "naive"))
    np.testing.assert_allclose(quick, slow, rtol=1e-8, atol=1e-8)
    afnp.save(ours, tmp_path / "f.afnp")
    assert (afnp.load(tmp_path / "f.afnp").theta == ours.theta).all()


def test_float32_stays_float32():
    torch.manual_seed(0)
    assert from_zuko(zuko.flows.MAF(4, transforms=2, **SMALL)).dtype == np.float32


def test_it_can_be_trained_on():
    torch.manual_seed(0)
    ours = from_zuko(zuko.flows.NSF(2, transforms=1, bins=4, hidden_features=(8,)).double())
    x = np.random.default_rng(0).standard_normal((200, 2)) * [0.5, 1] + [1, 0]
    before = ours.log_prob(x).mean()
    afnp.fit(ours, x, epochs=5, learning_rate=1e-2, progress=False)
    assert ours.log_prob(x).mean() > before + 0.1


def test_the_checks_find_nothing():
    torch.manual_seed(0)
    ours = from_zuko(zuko.flows.MAF(3, transforms=2, **SMALL).double())
    assert afnp.verify.check_flow(ours, level="quick").ok


def test_a_difference_is_refused_with_its_row(monkeypatch):
    flow = zuko.flows.MAF(3, transforms=1, **SMALL).double()
    monkeypatch.setattr(ClippedAffine, "generate", lambda self, h, u: (u - h[..., 0] + 0.1, 0 * u))
    with pytest.raises(ArithmeticError, match="samples: row .* in zuko: they part"):
        from_zuko(flow)


REFUSED = {
    "coupling": (lambda: zuko.flows.MAF(4, transforms=1, passes=2), "not fully autoregressive"),
    "another flow": (lambda: zuko.flows.NICE(4), "transform 0: cannot import a"),
    "circle": (lambda: zuko.flows.NCSF(3), "base: cannot import a BoxUniform"),
    "activation": (
        lambda: zuko.flows.MAF(3, activation=torch.nn.ELU),
        "transform 0: cannot import a network with ELU",
    ),
    "residual": (
        lambda: zuko.flows.MAF(3, residual=True, **SMALL),
        "transform 0: cannot import a network with Residual",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_in_is_named(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        from_zuko(make())


def test_a_base_of_another_width_is_refused():
    flow = copy.deepcopy(zuko.flows.MAF(3, transforms=1, **SMALL))
    flow.base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(3), 2 * torch.ones(3), buffer=True
    )
    with pytest.raises(ValueError, match="base: expected a standard normal"):
        from_zuko(flow)
