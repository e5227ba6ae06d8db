"""normflows: its flows, imported, are the same flows, in the direction that it calls inverse."""

from __future__ import annotations

import numpy as np
import pytest

import afnp
from afnp.compiled.stages import uncompiled

torch = pytest.importorskip("torch", reason="NORMFLOWS WAS NOT TESTED: pip install torch normflows")
normflows = pytest.importorskip("normflows", reason="NORMFLOWS WAS NOT TESTED: pip install it")

from afnp.interop.normflows import from_normflows  # noqa: E402

D, C, H = 5, 3, 12
flows, mlp = normflows.flows, normflows.nets.MLP
FLOWS = {
    "maf": lambda: [
        flows.MaskedAffineAutoregressive(D, H),
        flows.Permute(D),
        flows.MaskedAffineAutoregressive(D, H, use_residual_blocks=False),
    ],
    "maf, context": lambda: [flows.MaskedAffineAutoregressive(D, H, C) for _ in range(2)],
    "nsf": lambda: [
        flows.AutoregressiveRationalQuadraticSpline(D, 2, H, init_identity=False),
        flows.LULinearPermute(D),
        flows.AutoregressiveRationalQuadraticSpline(D, 1, H, permute_mask=True),
    ],
    "nsf, context": lambda: [flows.AutoregressiveRationalQuadraticSpline(D, 2, H, C)],
    "spline coupling": lambda: [
        flows.CoupledRationalQuadraticSpline(D, 2, H, reverse_mask=bool(k)) for k in range(2)
    ],
    "spline coupling, context": lambda: [flows.CoupledRationalQuadraticSpline(D, 2, H, C)],
    "masked couplings": lambda: [
        flows.MaskedAffineFlow(torch.tensor([1.0, 0, 1, 0, 1]), mlp([D, H, D]), mlp([D, 7, D])),
        flows.MaskedAffineFlow(torch.tensor([0.0, 1, 0, 1, 0]), mlp([D, H, H, D])),
        flows.MaskedAffineFlow(torch.tensor([1.0, 1, 0, 0, 1]), None, mlp([D, H, D])),
        flows.MaskedAffineFlow(torch.tensor([1.0, 1, 0, 0, 1]), mlp([D, D]), mlp([D, D])),
    ],
    "reversed": lambda: [
        flows.base.Reverse(flows.MaskedAffineAutoregressive(D, H)),
        flows.base.Reverse(flows.LULinearPermute(D)),
        flows.base.Composite([flows.ActNorm(D), flows.base.Reverse(flows.Permute(D))]),
        flows.InvertibleAffine(D, use_lu=False),
        flows.base.Reverse(flows.InvertibleAffine(D, use_lu=False)),
    ],
    "batch norm": lambda: [
        flows.MaskedAffineAutoregressive(D, H, use_batch_norm=True, dropout_probability=0.3),
        flows.MaskedAffineAutoregressive(D, H, use_residual_blocks=False, use_batch_norm=True),
    ],
    "coupling": lambda: [
        flows.AffineCouplingBlock(mlp([3, H, H, 4])),
        flows.Permute(D, "swap"),
        flows.ActNorm(D),
        flows.AffineConstFlow(D),
        flows.AffineCouplingBlock(mlp([2, H, 3]), scale=False, split_mode="channel_inv"),
    ],
}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def flow_of(steps, conditional=False, trainable=True):
    """A flow with parameters that hide nothing."""
    torch.manual_seed(0)
    base = normflows.distributions.DiagGaussian(D, trainable=trainable)
    kind = normflows.ConditionalNormalizingFlow if conditional else normflows.NormalizingFlow
    flow = kind(base, steps())
    with torch.no_grad():
        for values in flow.parameters():
            values += 0.2 * torch.randn_like(values)
        for part in flow.modules():
            if isinstance(part, flows.ActNorm):
                part.data_dep_init_done.fill_(1.0)
            if isinstance(part, torch.nn.BatchNorm1d):
                part.running_mean += 0.3 * torch.randn_like(part.running_mean)
                part.running_var += 1.7 * torch.rand_like(part.running_var)
    return flow.eval()


@pytest.fixture(params=FLOWS)
def theirs(request):
    conditional = "context" in request.param
    return flow_of(FLOWS[request.param], conditional, trainable=not conditional)


def test_an_imported_flow_is_the_same_flow(theirs):
    """Where afnp compares by itself, it compares in both directions; here with other rows."""
    ours = from_normflows(theirs)
    rng = np.random.default_rng(5)
    x = 0.7 * rng.standard_normal((50, D))
    c = rng.standard_normal((50, C)) if ours.context else None
    rows = [torch.from_numpy(part) for part in (x, c) if part is not None]
    with torch.no_grad():
        expected = theirs.log_prob(*rows).numpy()
    np.testing.assert_allclose(ours.log_prob(x, c), expected, rtol=1e-7, atol=1e-7)


def test_their_flow_is_left_as_it_was(theirs):
    before = [(type(part), sorted(vars(part)), part.training) for part in theirs.modules()]
    from_normflows(theirs)
    after = [(type(part), sorted(vars(part)), part.training) for part in theirs.modules()]
    assert after == before


def test_it_is_saved(theirs, tmp_path):
    ours = from_normflows(theirs)
    afnp.save(ours, tmp_path / "f.afnp")
    assert (afnp.load(tmp_path / "f.afnp").theta == ours.theta).all()


@pytest.mark.parametrize("name", ["maf", "nsf", "spline coupling", "coupling"])
def test_what_runs_compiled(name):
    assert not uncompiled(from_normflows(flow_of(FLOWS[name])).layers)


def test_its_maf_is_an_inverse_autoregressive_flow():
    """One pass to sample, steps that wait for each other for a density."""
    cost = from_normflows(flow_of(FLOWS["maf"])).layers[0].cost
    assert (cost.generate.depth, cost.normalize.depth) == (1, D)


@pytest.mark.parametrize("name", ["maf, context", "spline coupling, context"])
def test_it_can_be_trained_on(name):
    ours = from_normflows(flow_of(FLOWS[name], True, False))
    rng = np.random.default_rng(0)
    x, context = 0.5 * rng.standard_normal((64, D)) + 0.5, rng.standard_normal((64, C))
    before = ours.log_prob(x, context).mean()
    afnp.fit(ours, x, context=context, epochs=3, learning_rate=1e-2, progress=False)
    assert ours.log_prob(x, context).mean() > before


REFUSED = {
    "planar": (lambda: [flows.Planar((D,))], "flow 0: cannot import a Planar"),
    "depths": (
        lambda: [flows.MaskedAffineFlow(torch.ones(D), mlp([D, H, D]), mlp([D, D]))],
        "flow 0, MaskedAffineFlow: cannot import networks of other depths or activations",
    ),
    "reverse": (
        lambda: [flows.base.Reverse(flows.AffineCouplingBlock(mlp([3, H, 4])))],
        "flow 0, Reverse: cannot import an inverse of a Coupling",
    ),
    "scale map": (
        lambda: [flows.AffineCouplingBlock(mlp([3, H, 4]), scale_map="sigmoid")],
        "flow 0, AffineCouplingBlock: cannot import the scale map 'sigmoid'",
    ),
    "split": (
        lambda: [flows.AffineCouplingBlock(mlp([3, H, 4]), split_mode="checkerboard")],
        "cannot import the split 'checkerboard'",
    ),
    "leak": (
        lambda: [flows.AffineCouplingBlock(mlp([3, H, 4], leaky=0.1))],
        r"cannot import LeakyReLU\(0.1\)",
    ),
    "output": (
        lambda: [flows.AffineCouplingBlock(mlp([3, H, 4], output_fn="tanh"))],
        "cannot import a network with Tanh",
    ),
    "circle": (
        lambda: [flows.CircularAutoregressiveRationalQuadraticSpline(D, 1, H, [0])],
        "flow 0: cannot import a CircularAutoregressive",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_in_is_named(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        from_normflows(flow_of(make))


def test_other_bases_are_refused_by_name():
    base = normflows.distributions.GaussianMixture(2, D)
    with pytest.raises(ValueError, match="q0: cannot import a GaussianMixture"):
        from_normflows(normflows.NormalizingFlow(base, FLOWS["maf"]()))


def test_what_has_not_seen_data_is_named_and_left_as_it_was():
    base = normflows.distributions.DiagGaussian(D, trainable=False)
    theirs = normflows.NormalizingFlow(base, [flows.ActNorm(D)])
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    with pytest.raises(ValueError, match="flow 0, ActNorm: has not seen data yet"):
        from_normflows(theirs)
    assert all((value == before[name]).all() for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("other", [None, torch.nn.Linear(2, 2)])
def test_what_is_no_flow_of_theirs_is_refused(other):
    with pytest.raises(ValueError, match="flow: expected a NormalizingFlow of normflows, got "):
        from_normflows(other)
