"""nflows: its flows, imported, are the same flows, sampled by substitution."""

from __future__ import annotations

import numpy as np
import pytest

import afnp
from afnp.compiled.stages import uncompiled

torch = pytest.importorskip("torch", reason="NFLOWS WAS NOT TESTED: pip install torch nflows")
nflows = pytest.importorskip("nflows", reason="NFLOWS WAS NOT TESTED: pip install '.[nflows]'")

from nflows import distributions, flows, transforms  # noqa: E402
from nflows.nn.nets import MLP, ResidualNet  # noqa: E402

from afnp.interop.nflows import from_nflows  # noqa: E402

D, C, H = 5, 3, 12
LINEAR = {"num_bins": 6, "tails": "linear", "tail_bound": 3.0}
PLAIN = {"use_residual_blocks": False, "activation": torch.tanh}
MASK, OTHER = [0, 1, 0, 1, 1], [1, 0, 1, 0, 0]
affine = transforms.MaskedAffineAutoregressiveTransform
spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
spline_coupling = transforms.PiecewiseRationalQuadraticCouplingTransform


def residual(context=None, **options):
    return lambda inputs, outputs: ResidualNet(inputs, outputs, H, context, **options)


class Plain(MLP):
    """Their MLP takes no context, their couplings give one."""

    def forward(self, inputs, context=None):
        return super().forward(inputs)


Plain.__name__ = "MLP"

STEPS = {
    "maf": lambda: [affine(D, H), transforms.ReversePermutation(D), affine(D, H, **PLAIN)],
    "maf, context": lambda: [
        affine(D, H, C),
        transforms.RandomPermutation(D),
        affine(D, H, C, **PLAIN),
    ],
    "maf, residual tanh, context": lambda: [affine(D, H, C, activation=torch.tanh)],
    "maf, elu, context": lambda: [affine(D, H, C, activation=torch.nn.functional.elu)],
    "maf, random masks": lambda: [affine(D, H, use_residual_blocks=False, random_mask=True)],
    "maf, narrow": lambda: [affine(D, 3), transforms.ReversePermutation(D), affine(D, 3)],
    "nsf": lambda: [spline(D, H, **LINEAR), transforms.ReversePermutation(D)],
    "nsf, context": lambda: [spline(D, H, C, **LINEAR)],
    "coupling": lambda: [
        transforms.AffineCouplingTransform(MASK, residual()),
        transforms.AffineCouplingTransform(OTHER, lambda i, o: Plain([i], [o], [H, H])),
    ],
    "coupling, context": lambda: [transforms.AffineCouplingTransform(MASK, residual(C))],
    "additive coupling": lambda: [transforms.AdditiveCouplingTransform(MASK, residual())],
    "spline coupling": lambda: [spline_coupling(MASK, residual(), **LINEAR)],
    "spline coupling, context": lambda: [
        spline_coupling(MASK, residual(C), **LINEAR),
        transforms.LULinear(D),
    ],
    "linear maps": lambda: [
        transforms.QRLinear(D, 3),
        affine(D, H),
        transforms.SVDLinear(D, 4),
        transforms.HouseholderSequence(D, 3),
    ],
    "inverses": lambda: [
        transforms.InverseTransform(transforms.RandomPermutation(D)),
        transforms.InverseTransform(transforms.QRLinear(D, 2)),
        transforms.InverseTransform(
            transforms.CompositeTransform(
                [
                    spline(D, H, **LINEAR),
                    transforms.PointwiseAffineTransform(1.5, 2.0),
                    transforms.ActNorm(D),
                    transforms.InverseTransform(affine(D, H)),
                ]
            )
        ),
    ],
    "inverse": lambda: [transforms.InverseTransform(affine(D, H))],
    "inverse, context": lambda: [transforms.InverseTransform(affine(D, H, C))],
    "batch norm": lambda: [
        affine(D, H, use_batch_norm=True, dropout_probability=0.5),
        affine(D, H, use_batch_norm=True, dropout_probability=0.5, **PLAIN),
    ],
    "batch norm, context": lambda: [affine(D, H, C, use_batch_norm=True, **PLAIN)],
    "batch norm in a coupling": lambda: [
        transforms.AffineCouplingTransform(
            MASK, residual(use_batch_norm=True, activation=torch.tanh)
        ),
        spline_coupling(OTHER, residual(use_batch_norm=True), **LINEAR),
    ],
    "batch norm in a coupling, context": lambda: [
        spline_coupling(MASK, residual(C, use_batch_norm=True), **LINEAR)
    ],
    "normalisations": lambda: [
        transforms.PointwiseAffineTransform(1.5, torch.arange(1.0, D + 1)),
        transforms.IdentityTransform(),
        transforms.CompositeTransform([transforms.BatchNorm(D), affine(D, H)]),
        transforms.LULinear(D, identity_init=False),
        transforms.ActNorm(D),
    ],
}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def flow_of(steps, base=None):
    """A flow with parameters and statistics that hide nothing."""
    torch.manual_seed(0)
    flow = flows.Flow(
        transforms.CompositeTransform(steps()), base or distributions.StandardNormal([D])
    )
    with torch.no_grad():
        for values in flow.parameters():
            values += 0.3 * torch.randn_like(values)
        for part in flow.modules():
            if isinstance(part, (transforms.BatchNorm, torch.nn.BatchNorm1d)):
                part.running_mean += 0.3 * torch.randn_like(part.running_mean)
                part.running_var += 1.7 * torch.rand_like(part.running_var)
    return flow.eval()


@pytest.fixture(params=STEPS)
def theirs(request):
    return flow_of(STEPS[request.param])


def test_an_imported_flow_is_the_same_flow(theirs):
    """Where afnp compares by itself, it compares in both directions; here with other rows."""
    ours = from_nflows(theirs)
    rng = np.random.default_rng(5)
    x = 1.5 * rng.standard_normal((50, D))
    c = rng.standard_normal((50, ours.context)) if ours.context else None
    with torch.no_grad():
        expected = theirs.log_prob(*(None if v is None else torch.from_numpy(v) for v in (x, c)))
    for backend in ("auto", "numpy"):
        found = ours.log_prob(x, c, backend=backend)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-8, atol=1e-8)


def test_it_samples_by_substitution_and_is_saved(theirs, tmp_path):
    ours = from_nflows(theirs)
    u = np.random.default_rng(1).standard_normal((20, D))
    c = np.ones((1, ours.context)) if ours.context else None
    quick, slow = (ours.generate(u, c, method=method)[0] for method in ("substitution", "naive"))
    np.testing.assert_allclose(quick, slow, rtol=1e-8, atol=1e-8)
    afnp.save(ours, tmp_path / "f.afnp")
    assert (afnp.load(tmp_path / "f.afnp").theta == ours.theta).all()


def test_units_are_sorted_by_degree():
    """nflows deals degrees out in a circle, 1, 2, 3, 4, 1, 2, ..."""
    net = from_nflows(flow_of(STEPS["maf"])).layers[0].conditioner
    assert net.degrees[1].tolist() == sorted(k % (D - 1) + 1 for k in range(H))


COMPILED = ["maf", "maf, context", "nsf", "coupling", "spline coupling", "batch norm", "inverses"]


@pytest.mark.parametrize("name", COMPILED)
def test_what_runs_compiled(name):
    assert not uncompiled(from_nflows(flow_of(STEPS[name])).layers)


@pytest.mark.parametrize("name", ["maf, context", "spline coupling, context", "normalisations"])
def test_it_can_be_trained_on(name):
    ours, rng = from_nflows(flow_of(STEPS[name])), np.random.default_rng(0)
    x = rng.standard_normal((200, D)) * [0.5, 1, 1, 1, 1] + 1
    context = rng.standard_normal((200, C)) if ours.context else None
    before = ours.log_prob(x, context).mean()
    afnp.fit(ours, x, context=context, epochs=5, learning_rate=1e-2, progress=False)
    assert ours.log_prob(x, context).mean() > before + 0.1


def test_a_base_with_parameters_is_a_layer():
    theirs = flow_of(lambda: [affine(D, H)], distributions.DiagonalNormal([D]))
    assert type(from_nflows(theirs).layers[-1]).__name__ == "ActNorm"


def test_the_flows_of_their_own_classes():
    """With BatchNorm between and inside, and dropout; all as they come."""
    from nflows.flows import MaskedAutoregressiveFlow, SimpleRealNVP

    for kind in (MaskedAutoregressiveFlow, SimpleRealNVP):
        for within in (False, True):
            torch.manual_seed(0)
            theirs = kind(
                D,
                H,
                3,
                2,
                dropout_probability=0.2,
                batch_norm_between_layers=True,
                batch_norm_within_layers=within,
            )
            theirs.log_prob(torch.randn(100, D))  # takes statistics
            assert from_nflows(theirs).features == D and theirs.training


def test_float32_stays_float32():
    torch.set_default_dtype(torch.float32)
    theirs = flows.Flow(affine(D, H, C), distributions.StandardNormal([D]))
    assert from_nflows(theirs).dtype == np.float32


def test_each_part_stays_in_the_mode_in_which_it_was():
    theirs = flow_of(STEPS["normalisations"]).train()
    parts = list(theirs.modules())
    parts[-1].eval()
    before = [part.training for part in parts]
    assert {True, False} == set(before)
    from_nflows(theirs)
    assert [part.training for part in parts] == before


def test_the_checks_find_nothing():
    """The first feature of theirs never depends on the context, which is no error."""
    ours = from_nflows(
        flow_of(lambda: [affine(3, H), affine(3, H)], distributions.StandardNormal([3]))
    )
    assert afnp.verify.check_flow(ours, level="quick").ok


REFUSED = {
    "tails": (lambda: [spline(D, H)], "transform 0, Masked.*: cannot import a spline with tails"),
    "matrix": (
        lambda: [transforms.NaiveLinear(D, orthogonal_initialization=False)],
        "transform 0: cannot import a NaiveLinear",
    ),
    "inverse": (
        lambda: [
            transforms.InverseTransform(transforms.AdditiveCouplingTransform(MASK, residual()))
        ],
        "transform 0, InverseTransform: cannot import an inverse of a Coupling",
    ),
    "inside": (
        lambda: [affine(D, H), transforms.CompositeTransform([transforms.Sigmoid()])],
        "transform 1, transform 0: cannot import a Sigmoid",
    ),
    "activation": (
        lambda: [affine(D, H, activation=torch.nn.functional.silu)],
        "cannot import a network with the activation silu",
    ),
    "batch norm": (
        lambda: [affine(D, H, C, use_batch_norm=True)],
        "cannot import a MADE with BatchNorm1d in residual blocks with context",
    ),
    "blocks": (lambda: [affine(D, H, num_blocks=0)], "cannot import a network without blocks"),
    "unconditional": (
        lambda: [spline_coupling(MASK, residual(), apply_unconditional_transform=True, **LINEAR)],
        "cannot import the unconditional transform PiecewiseRationalQuadraticCDF",
    ),
    "network": (
        lambda: [
            transforms.AffineCouplingTransform(MASK, lambda i, o: torch.nn.Linear(i, o)),
        ],
        "cannot import the network Linear",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_in_is_named(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        from_nflows(flow_of(make))


def test_bases_and_embeddings_are_refused_by_name():
    base = distributions.ConditionalDiagonalNormal([D], torch.nn.Linear(C, 2 * D))
    with pytest.raises(ValueError, match="distribution: cannot import a ConditionalDiagonal"):
        from_nflows(flow_of(lambda: [affine(D, H, C)], base))
    theirs = flows.Flow(affine(D, H, C), distributions.StandardNormal([D]), torch.nn.Linear(2, C))
    with pytest.raises(ValueError, match="embedding_net: cannot import a Linear"):
        from_nflows(theirs)


def test_a_difference_is_refused_with_its_row(monkeypatch):
    theirs = flow_of(STEPS["maf"])
    monkeypatch.setattr(type(theirs._transform), "inverse", lambda self, u, context: (u + 1, 0 * u))
    with pytest.raises(ArithmeticError, match="samples: row .* in nflows: they part"):
        from_nflows(theirs)


@pytest.mark.parametrize("other", [None, torch.nn.Linear(2, 2)])
def test_what_is_no_flow_of_theirs_is_refused(other):
    with pytest.raises(ValueError, match="flow: expected a Flow of nflows, got "):
        from_nflows(other)
