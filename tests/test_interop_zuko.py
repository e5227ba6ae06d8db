"""zuko: its flows, imported, are the same flows; their univariates have the right derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import complex_step

import afnp
from afnp.univariate import ClippedAffine, ClippedCircle, ClippedSpline

UNIVARIATES = {
    "circle": ClippedCircle(bins=3),
    "affine": ClippedAffine(),
    "spline": ClippedSpline(bins=4),
    "sharp": ClippedSpline(3, 2.0, 0.1),
}


@pytest.fixture(params=UNIVARIATES)
def univariate(request):
    return UNIVARIATES[request.param]


def params(univariate, n=40, seed=0):
    rng = np.random.default_rng(seed)
    low, high = np.clip(univariate.support, -9, 9)
    h, x = 2 * rng.standard_normal((n, univariate.numbers)), 3 * rng.standard_normal(n)
    return h, x.clip(low + 0.01, high - 0.01)


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
    "maf, elu": lambda: zuko.flows.MAF(4, 2, transforms=2, activation=torch.nn.ELU, **SMALL),
    "nsf, elu, coupling": lambda: zuko.flows.NICE(4, 2, activation=torch.nn.ELU, **SMALL),
    "maf, narrow": lambda: zuko.flows.MAF(6, transforms=1, hidden_features=(3,)),
    "maf, linear": lambda: zuko.flows.MAF(3, transforms=1, hidden_features=()),
    "maf, residual": lambda: zuko.flows.MAF(
        4, 2, transforms=2, hidden_features=(12, 12), residual=True
    ),
    "maf, one block": lambda: zuko.flows.MAF(
        5, transforms=2, hidden_features=(8,), residual=True, randperm=True
    ),
    "maf, two passes": lambda: zuko.flows.MAF(5, 2, transforms=3, passes=2, **SMALL),
    "maf, three passes": lambda: zuko.flows.MAF(7, transforms=2, passes=3, randperm=True, **SMALL),
    "maf, one feature": lambda: zuko.flows.MAF(1, transforms=2),
    "maf, one feature, context": lambda: zuko.flows.MAF(1, 3, transforms=2, **SMALL),
    "additive": lambda: zuko.flows.MAF(
        3, transforms=2, univariate=zuko.transforms.AdditiveTransform, shapes=[()], **SMALL
    ),
    "adjacency": lambda: graph(),
    "nice": lambda: zuko.flows.NICE(5, transforms=4, randmask=True, **SMALL),
    "nice, context": lambda: zuko.flows.NICE(4, 3, transforms=3, **SMALL),
    "nice, additive": lambda: zuko.flows.NICE(
        4, univariate=zuko.transforms.AdditiveTransform, shapes=[()], **SMALL
    ),
    "iaf": lambda: inverse(),
    "between": lambda: between(),
    "nsf, two passes": lambda: zuko.flows.NSF(5, transforms=2, bins=4, passes=2, **SMALL),
    "nsf, coupling": lambda: splines_in_blocks(),
    "circles": lambda: zuko.flows.NCSF(3, transforms=3, bins=5, **SMALL),
    "circles, context": lambda: zuko.flows.NCSF(3, 2, transforms=2, slope=0.1, **SMALL),
    "nsf": lambda: zuko.flows.NSF(4, transforms=2, bins=5, **SMALL),
    "nsf, context": lambda: zuko.flows.NSF(3, 2, transforms=2, slope=1e-2, **SMALL),
}


UnconditionalTransform = zuko.lazy.UnconditionalTransform


def graph():
    """Feature 2 depends on 0, 0 on 3, 1 on nothing; the second input of the context on 2 alone."""
    edges = torch.eye(4, 6).bool()
    edges[2, 0] = edges[0, 3] = edges[2, 5] = edges[3, 4] = True
    edges[1, 4] = True
    transform = zuko.flows.MaskedAutoregressiveTransform(4, 2, adjacency=edges, **SMALL)
    return zuko.flows.Flow([transform], zuko.flows.MAF(4).base)


def inverse():
    flow = zuko.flows.MAF(4, 2, transforms=3, **SMALL)
    return zuko.flows.Flow(flow.transform.inv, flow.base)


def between():
    """Maps without a network between those that have one, and noise of another spread."""
    maf, eye = zuko.flows.MAF(3, transforms=2, **SMALL), torch.eye(3)
    first, second = maf.transform.transforms
    turn = UnconditionalTransform(
        zuko.transforms.PermutationTransform, torch.tensor([2, 0, 1]), buffer=True
    )
    scale = UnconditionalTransform(
        zuko.transforms.MonotonicAffineTransform, torch.ones(3), torch.rand(3)
    )
    LU = 2 * eye + 0.3 * torch.randn(3, 3)
    spread = UnconditionalTransform(
        torch.distributions.AffineTransform, torch.ones(3), 1 + torch.rand(3), buffer=True
    )
    rotation = UnconditionalTransform(zuko.transforms.RotationTransform, torch.randn(3, 3))
    triangles = UnconditionalTransform(zuko.transforms.LULinearTransform, LU)
    transforms = [
        spread,
        first,
        turn,
        rotation,
        second.inv,
        triangles.inv,
        turn.inv,
        triangles,
        scale.inv,
    ]
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.ones(3), 2 * torch.ones(3), buffer=True
    )
    return zuko.flows.Flow(transforms, base)


def splines_in_blocks():
    splines = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(5,), (5,), (4,)]}
    return zuko.flows.NICE(4, 1, transforms=3, **splines, **SMALL)


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
    x = (2 * rng.standard_normal((50, ours.features))).clip(-3.14, 3.14)  # angles, too
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


def flow_of(transform):
    return zuko.flows.Flow([transform], zuko.flows.MAF(3).base)


def mixture():
    parts = torch.zeros(2), torch.randn(2, 3), torch.ones(2, 3)
    weights, parts = torch.distributions.Categorical(logits=parts[0]), parts[1:]
    return zuko.lazy.UnconditionalDistribution(
        lambda: zuko.distributions.Mixture(zuko.distributions.DiagNormal(*parts), weights.logits)
    )


REFUSED = {
    "another flow": (lambda: zuko.flows.NAF(4), "transform 0: cannot import the univariate MNN"),
    "a univariate": (lambda: zuko.flows.BPF(3), "transform 0: cannot import the univariate Boun"),
    "activation": (
        lambda: zuko.flows.MAF(3, activation=torch.nn.SiLU),
        "transform 0: cannot import a network with SiLU",
    ),
    "residual, tanh": (
        lambda: zuko.flows.MAF(3, residual=True, activation=torch.nn.Tanh, hidden_features=(4,)),
        "transform 0: cannot import residual blocks with Tanh",
    ),
    "residual, widths": (
        lambda: zuko.flows.MAF(3, residual=True, **SMALL),
        "transform 0: cannot import residual blocks of several widths",
    ),
    "normalisation": (
        lambda: zuko.flows.NICE(3, normalize=True),
        "transform 0: cannot import a network with LayerNorm",
    ),
    "softclip": (
        lambda: flow_of(UnconditionalTransform(zuko.transforms.SoftclipTransform, bound=11.0)),
        "transform 0: cannot import a SoftclipTransform",
    ),
    "inverse coupling": (
        lambda: flow_of(zuko.flows.GeneralCouplingTransform(3).inv),
        "transform 0: cannot import an inverse of a GeneralCouplingTransform",
    ),
    "base": (
        lambda: zuko.flows.Flow(zuko.flows.MAF(3).transform, mixture()),
        "base: cannot import a Mixture",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_in_is_named(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        from_zuko(make())


# ---- back again ----------------------------------------------------------------------------------

from afnp.bases import StudentT  # noqa: E402
from afnp.interop.zuko import to_zuko  # noqa: E402

OURS = {
    "maf": lambda **kw: afnp.maf(4, hidden=(16, 12), transforms=3, **kw),
    "scales": lambda **kw: afnp.maf(
        3, hidden=(8,), transforms=2, univariate=afnp.univariate.Affine(scale="softplus"), **kw
    ),
    "gates": lambda **kw: afnp.maf(
        3, hidden=(8,), transforms=2, univariate=afnp.univariate.Affine(scale="sigmoid"), **kw
    ),
    "unbounded, random orders, tanh": lambda **kw: afnp.maf(
        5,
        hidden=(9,),
        order="random",
        activation="tanh",
        univariate=afnp.univariate.Affine(scale="exp"),
        **kw,
    ),
    "linear": lambda **kw: afnp.maf(3, hidden=(), transforms=2, **kw),
    "elu": lambda **kw: afnp.maf(3, hidden=(8,), activation="elu", **kw),
    "shifts": lambda **kw: afnp.maf(3, hidden=(8,), transforms=2, univariate="additive", **kw),
    "iaf": lambda **kw: afnp.iaf(3, hidden=(8,), transforms=2, **kw),
    "clipped": lambda **kw: afnp.maf(3, hidden=(8,), univariate="clipped_affine", **kw),
    "clipped splines": lambda **kw: afnp.maf(3, hidden=(8,), univariate="clipped_spline", **kw),
}


@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("case", OURS)
def test_an_exported_flow_is_the_same_flow(case, context):
    """It is compared by itself; here with other rows, and once more when it has come back."""
    rng = np.random.default_rng(0)
    scaled = {"preprocess": afnp.preprocessing(5 + 3 * rng.normal(size=(50, 5)))}
    ours = OURS[case](context=context, **(scaled if "random" in case else {}))
    ours.theta += 0.2 * rng.standard_normal(ours.theta.size)
    if context:
        ours.standardize_context(rng.normal(size=(30, 2)) * [2, 0.1] + [10, -1])
    theirs = to_zuko(ours)
    x = rng.standard_normal((30, ours.features))
    c = rng.normal(size=(30, 2)) * [2, 0.1] + [10, -1] if context else None
    with torch.no_grad():
        given = theirs(None if c is None else torch.from_numpy(c))
        np.testing.assert_allclose(
            ours.log_prob(x, c), given.log_prob(torch.from_numpy(x)).numpy(), rtol=1e-9, atol=1e-9
        )
    assert "MaskedAutoregressiveTransform" in repr(theirs)
    again = from_zuko(theirs)
    np.testing.assert_allclose(again.log_prob(x, c), ours.log_prob(x, c), rtol=1e-12, atol=1e-12)
    if not context:  # whose units are now in the weights
        unmasked = np.where(again.theta == 0, 0, ours.theta)
        np.testing.assert_allclose(again.theta, unmasked, rtol=1e-12)
        assert (again.theta != 0).mean() > 0.3


def test_an_exported_flow_can_be_trained_and_is_float32_where_ours_is():
    theirs = to_zuko(afnp.maf(3, hidden=(8,), transforms=1, dtype="float32"))
    x = 1 + torch.randn(100, 3)
    before = theirs().log_prob(x).mean()
    assert before.dtype == torch.float32
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for _ in range(30):
        loss = -theirs().log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert theirs().log_prob(x).mean() > before + 0.1


NOT_EXPORTED = {
    "base": (lambda: afnp.maf(3, hidden=(8,), base=StudentT(3)), "base: cannot export a StudentT"),
    "coupling": (lambda: afnp.realnvp(3, hidden=(8,)), "layer 0: cannot export a Coupling"),
    "residual": (
        lambda: afnp.maf(3, hidden=(8, 8, 8), residual=True),
        "layer 0: cannot export a residual MaskedMLP",
    ),
    "mixture": (lambda: afnp.maf_mog(3, hidden=(8,)), "layer .: cannot export the univariate Gau"),
    "attention": (
        lambda: afnp.tarflow(4, patch=2, width=8, heads=2, blocks=1),
        "layer .: cannot export a CausalTransformer",
    ),
    "one feature": (lambda: afnp.maf(1, hidden=(8,)), "layer 0: cannot export a network of one"),
}


@pytest.mark.parametrize("case", NOT_EXPORTED)
def test_what_cannot_go_out_is_named(case):
    make, message = NOT_EXPORTED[case]
    with pytest.raises(ValueError, match=message):
        to_zuko(make())


@pytest.mark.parametrize("other", [None, torch.nn.Linear(2, 2)])
def test_what_is_no_flow_of_theirs_is_refused(other):
    with pytest.raises(ValueError, match="flow: expected a Flow of zuko, got "):
        from_zuko(other)
