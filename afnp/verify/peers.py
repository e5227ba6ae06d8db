r"""Flows that nobody here wrote: the kit on released flows of six libraries.

.. math:: \text{finding} = (\text{library}, \text{flow}, \text{check}, \text{what it says})

Each flow is built as its library's documentation has it, in float64, and its parameters are moved
away from their start, which hides most defects. One transform alone is held to its order; where
several are stacked, everything may depend on everything. ``python -m afnp.verify.mutants --peers``
writes the record and the table (extra ``bench``). TensorFlow Probability 0.25 wants an environment
of its own, with jax 0.4.35.

Letters: D features, C context inputs, H hidden units, T transforms.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from afnp.progress import bar
from afnp.verify.adapters import adapt
from afnp.verify.report import Report
from afnp.verify.runner import check_flow

__all__ = ["PEERS", "Peer", "check_peer", "read", "run", "table", "write"]

PATH, RECORD = (Path(__file__).with_name(name) for name in ("PEERS.md", "peers.json"))
"""Where the table is kept, and what it is made of."""

FILED = "\n## Findings to be filed\n"
"""Where the part begins that people write."""

BLOCK, TRIANGULAR = "block_neural_autoregressive_flow", "triangular_spline_flow"

STIR = 0.3
"""Standard deviation of what is added to every parameter."""

TIME_LIMIT = 1200.0
"""Seconds a check: some invert by D network passes."""

PACKAGES = {
    "zuko": ("zuko", "torch"),
    "nflows": ("nflows", "torch"),
    "normflows": ("normflows", "torch"),
    "flowjax": ("flowjax", "jax"),
    "pyro": ("pyro-ppl", "torch"),
    "tfp": ("tensorflow-probability", "jax"),
}
"""Whose releases are named, by library."""


@dataclass(frozen=True)
class Peer:
    """A flow of another library.

    Attributes
    ----------
    library, kind : str
        Package, and what its flow is.
    build : callable
        From D, C, H and T to the flow.
    features, context, hidden, transforms : int
        D, C, H, T.
    ordered : bool
        Whether u_i may depend on x_1 ... x_i alone.
    time_limit : float
        Seconds that a check may take.
    """

    library: str
    kind: str
    build: Callable[..., Any]
    features: int = 4
    context: int = 0
    hidden: int = 16
    transforms: int = 1
    ordered: bool = False
    time_limit: float = TIME_LIMIT

    @property
    def name(self) -> str:
        """Say what flow it is, and whose."""
        sizes = f"D = {self.features}, H = {self.hidden}, T = {self.transforms}"
        with_context = f", C = {self.context}" if self.context else ""
        return f"{self.library}: {self.kind}, {sizes}{with_context}"


# ---- their flows ---------------------------------------------------------------------------------


def _zuko(kind: str):
    def build(D: int, C: int, H: int, T: int):
        import zuko

        return _stirred(getattr(zuko.flows, kind)(D, C, transforms=T, hidden_features=(H, H)))

    return build


def _zuko_neural(kind: str):
    def build(D: int, C: int, H: int, T: int):
        import zuko

        sizes = {"hidden_features": (H, H), "network": {"hidden_features": (H, H)}}
        return _stirred(getattr(zuko.flows, kind)(D, C, transforms=T, **sizes))

    return build


def _zuko_cnf(D: int, C: int, H: int, *_: int):
    import zuko

    return _stirred(zuko.flows.CNF(D, C, hidden_features=(H, H)))


def _nflows(step: Callable):
    def build(D: int, C: int, H: int, T: int):
        from nflows import distributions, flows, transforms

        steps = [step(transforms, D, C or None, H, k) for k in range(T)]
        base = distributions.normal.StandardNormal([D])
        return _stirred(flows.base.Flow(transforms.CompositeTransform(steps), base))

    return build


def _nflows_maf(transforms, D, C, H, k):
    return transforms.MaskedAffineAutoregressiveTransform(D, H, context_features=C)


def _nflows_spline(transforms, D, C, H, k):
    return transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
        D, H, context_features=C, num_bins=8, tails="linear", tail_bound=3.0
    )


def _nflows_quadratic(transforms, D, C, H, k):
    return transforms.MaskedPiecewiseQuadraticAutoregressiveTransform(
        D, H, context_features=C, num_bins=8, tails="linear", tail_bound=3.0
    )


def _nflows_linear(kind: str, **options: Any):
    def step(transforms, D, C, H, k):
        return getattr(transforms, kind)(D, **options)

    return step


def _nflows_coupling(transforms, D, C, H, k):
    from nflows.nn.nets import ResidualNet

    def net(inputs, outputs):
        return ResidualNet(inputs, outputs, H, context_features=C)

    return transforms.AffineCouplingTransform([(i + k) % 2 for i in range(D)], net)


def _normflows(step: Callable):
    def build(D: int, C: int, H: int, T: int):
        import normflows

        base = normflows.distributions.DiagGaussian(D, trainable=False)
        steps = [step(normflows.flows, D, C or None, H, k) for k in range(T)]
        kind = normflows.ConditionalNormalizingFlow if C else normflows.NormalizingFlow
        return _stirred(kind(base, steps))

    return build


def _normflows_maf(flows, D, C, H, k):
    return flows.MaskedAffineAutoregressive(D, H, context_features=C)


def _normflows_spline(flows, D, C, H, k):
    return flows.AutoregressiveRationalQuadraticSpline(
        D, 2, H, num_context_channels=C, init_identity=False
    )


def _normflows_coupling(flows, D, C, H, k):
    return flows.CoupledRationalQuadraticSpline(
        D, 2, H, num_context_channels=C, reverse_mask=bool(k % 2)
    )


def _normflows_residual(flows, D, C, H, k):
    import normflows

    net = normflows.nets.LipschitzMLP([D, H, H, D], init_zeros=False, lipschitz_const=0.9)
    return flows.Residual(net, exact_trace=True)


def _normflows_glow(flows, D, C, H, k):
    """Return one of the steps of Glow for vectors: scale, mix, couple."""
    import normflows

    params = normflows.nets.MLP([(D + 1) // 2, H, H, 2 * (D // 2)])
    couple = flows.AffineCouplingBlock(params, scale_map="sigmoid")
    norm = flows.ActNorm(D)
    norm.data_dep_init_done.fill_(1.0)
    return [couple, flows.LULinearPermute(D), norm][k % 3]


def _stirred(flow):
    """Return a torch module in float64 with its parameters moved."""
    import torch

    flow = flow.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += STIR * torch.randn(
                parameter.shape, generator=generator, dtype=parameter.dtype
            )
    return flow


def _flowjax(kind: str):
    def build(D: int, C: int, H: int, T: int):
        from flowjax import bijections, distributions, flows
        from jax import random

        base = distributions.StandardNormal((D,))
        key = random.key(0)
        cond = C or None
        spline = bijections.RationalQuadraticSpline(knots=8, interval=3)
        transformer = {"transformer": spline} if kind == "spline" else {}
        if T > 1:
            stack = flows.coupling_flow if kind == "coupling" else flows.masked_autoregressive_flow
            options = {"cond_dim": cond, "flow_layers": T, "nn_width": H, "nn_depth": 2}
            return _stirred_jax(stack(key, base_dist=base, **options, **transformer))
        one = bijections.MaskedAutoregressive(
            key,
            transformer=transformer.get("transformer", flows._affine_with_min_scale()),
            dim=D,
            cond_dim=cond,
            nn_width=H,
            nn_depth=2,
        )
        return _stirred_jax(distributions.Transformed(base, bijections.Invert(one)))

    return build


def _flowjax_premade(kind: str, **options: Any):
    def build(D: int, C: int, H: int, T: int):
        from flowjax import distributions, flows
        from jax import random

        base = distributions.StandardNormal((D,))
        make = getattr(flows, kind)
        sizes = {"cond_dim": C or None, "flow_layers": T}
        return _stirred_jax(make(random.key(0), base_dist=base, **sizes, **options))

    return build


def _stirred_jax(flow):
    """Return a flowjax flow with its trainable arrays moved."""
    import equinox
    import jax
    import paramax

    fixed = paramax.NonTrainable
    trained, rest = equinox.partition(
        flow, equinox.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, fixed)
    )
    rng = np.random.default_rng(0)
    moved = jax.tree_util.tree_map(lambda a: a + STIR * rng.standard_normal(a.shape), trained)
    return equinox.combine(moved, rest)


def _pyro(step: Callable, back: bool = True):
    """Return what builds flows of Pyro's transforms, there, and back if they can."""

    def build(D: int, C: int, H: int, T: int) -> dict[str, Any]:
        from afnp.verify.adapters.torch import Tensors

        tensors = Tensors(_stirred(_module([step(D, H) for _ in range(T)])))
        steps = list(tensors.module)

        def run(z, ways, there: bool):
            log_det = z.new_zeros(len(z))
            for way in ways:
                new = way(z) if there else way.inv(z)
                before, after = (z, new) if there else (new, z)
                part = way.log_abs_det_jacobian(before, after)
                part = part.sum(-1) if part.dim() > 1 else part
                log_det, z = (log_det + part, new) if there else (log_det - part, new)
            return z, log_det

        def normalize(x):
            return run(x, steps[::-1], there=False)

        generate = tensors.function(lambda u: run(u, steps, there=True))
        functions = {"generate": generate, "features": D, "dtype": np.float64}
        if back:
            functions |= {
                "normalize": tensors.function(normalize),
                "jacobian": tensors.jacobian(normalize),
            }
        return functions

    return build


def _module(steps: list) -> Any:
    import torch

    return torch.nn.ModuleList(steps)


def _pyro_maf(D, H):
    import torch
    from pyro.distributions import transforms
    from pyro.nn import AutoRegressiveNN

    net = AutoRegressiveNN(D, [H, H], permutation=torch.arange(D))
    return transforms.AffineAutoregressive(net)


def _pyro_spline(D, H):
    import torch
    from pyro.distributions import transforms
    from pyro.nn import AutoRegressiveNN

    params = [8, 8, 7, 8]
    net = AutoRegressiveNN(D, [H, H], param_dims=params, permutation=torch.arange(D))
    return transforms.SplineAutoregressive(D, net, count_bins=8, bound=3.0)


def _pyro_neural(D, H):
    from pyro.distributions import transforms

    return transforms.neural_autoregressive(D, [H, H], width=8)


def _pyro_block(D, H):
    from pyro.distributions import transforms

    return transforms.block_autoregressive(D, hidden_factors=[4, 4])


def _pyro_polynomial(D, H):
    from pyro.distributions import transforms

    return transforms.polynomial(D, [H, H])


def _pyro_coupling(D, H):
    from pyro.distributions import transforms

    return transforms.affine_coupling(D, [H, H])


def _pyro_spline_coupling(D, H):
    from pyro.distributions import transforms

    return transforms.spline_coupling(D, hidden_dims=[H, H], count_bins=8, bound=3.0)


def _pyro_linear(kind: str, **options: Any):
    def step(D: int, *_: int):
        from pyro.distributions import transforms

        return getattr(transforms, kind)(D, **options)

    return step


def _tfp(step: Callable):
    """Return what builds transformed distributions of TensorFlow Probability on JAX."""

    def build(D: int, C: int, H: int, T: int):
        from tensorflow_probability.substrates import jax as tfp

        rng = np.random.default_rng(0)
        steps = [step(tfp.bijectors, D, C, H, k, rng) for k in range(T)]
        base = tfp.distributions.MultivariateNormalDiag(np.zeros(D))
        bijector = tfp.bijectors.Chain(steps) if T > 1 else steps[0]
        return tfp.distributions.TransformedDistribution(base, bijector)

    return build


def _weights(rng: np.random.Generator, sizes: Sequence[int]) -> list[np.ndarray]:
    """Return Glorot's weights, moved."""
    pairs = zip(sizes, sizes[1:], strict=False)
    return [
        rng.normal(size=pair) * np.sqrt(2 / sum(pair)) + STIR * rng.normal(size=pair)
        for pair in pairs
    ]


def _tfp_network(rng: np.random.Generator, D: int, C: int, H: int, params: int, masks=None):
    """Return a network of two hidden layers that TFP leaves to users on JAX: params a feature.

    With ``masks``, TFP's own, it is autoregressive. The context enters at every layer, as in TFP's
    ``AutoregressiveNetwork``.
    """
    import jax

    sizes = [D, H, H, params] if masks is None else [*(len(m) for m in masks), D * params]
    weights = _weights(rng, sizes)
    if masks is not None:
        weights = [W * mask for W, mask in zip(weights, masks, strict=True)]
    biases = [STIR * rng.normal(size=size) for size in sizes[1:]]
    contexts = [rng.normal(size=(C, size)) / np.sqrt(size) for size in sizes[1:]]

    def network(x, conditional_input=None):
        for k, (W, b, V) in enumerate(zip(weights, biases, contexts, strict=True)):
            x = (x if k == 0 else jax.nn.relu(x)) @ W + b
            x = x if conditional_input is None else x + conditional_input @ V
        return x if masks is None else x.reshape(*x.shape[:-1], D, params)

    return network


def _tfp_masks(D: int, H: int, params: int) -> list[np.ndarray]:
    from tensorflow_probability.substrates.jax.bijectors import masked_autoregressive

    return masked_autoregressive._make_dense_autoregressive_masks(params, D, [H, H])


def _bounded(log_scale):
    """Keep the logarithm of a scale in (-3, 3): TFP's ``Scale`` takes what the network gives."""
    import jax

    return 3 * jax.numpy.tanh(log_scale / 3)


def _tfp_maf(bijectors, D, C, H, k, rng):
    net = _tfp_network(rng, D, C, H, 2, _tfp_masks(D, H, 2))

    def shift_and_log_scale(x, **given):
        params = net(x, **given)
        return params[..., 0], _bounded(params[..., 1])

    step = bijectors.MaskedAutoregressiveFlow(shift_and_log_scale)
    return bijectors.Chain([bijectors.Permute(np.arange(D)[::-1]), step]) if k else step


def _tfp_splines(bijectors, params):
    """Return TFP's splines of 8 bins in [-3, 3], as its documentation makes them of params."""
    import jax

    def sizes(h):
        return jax.nn.softmax(h, axis=-1) * (6 - 8 * 1e-2) + 1e-2

    widths, heights = sizes(params[..., :8]), sizes(params[..., 8:16])
    slopes = jax.nn.softplus(params[..., 16:]) + 1e-3
    return bijectors.RationalQuadraticSpline(widths, heights, slopes, range_min=-3)


def _tfp_spline(bijectors, D, C, H, k, rng):
    net = _tfp_network(rng, D, C, H, 23, _tfp_masks(D, H, 23))

    def splines(x, **given):
        return _tfp_splines(bijectors, net(x, **given))

    step = bijectors.MaskedAutoregressiveFlow(bijector_fn=splines, unroll_loop=True)
    return bijectors.Chain([bijectors.Permute(np.arange(D)[::-1]), step]) if k else step


def _tfp_coupling(bijectors, D, C, H, k, rng):
    masked = D // 2
    net = _tfp_network(rng, masked, C, H, 2 * (D - masked))

    def shift_and_log_scale(x, moved, **given):
        params = net(x, **given)
        return params[..., :moved], _bounded(params[..., moved:])

    return bijectors.RealNVP(
        -masked if k % 2 else masked, shift_and_log_scale_fn=shift_and_log_scale
    )


def _tfp_spline_coupling(bijectors, D, C, H, k, rng):
    masked = D // 2
    net = _tfp_network(rng, masked, C, H, 23 * (D - masked))

    def splines(x, moved):
        return _tfp_splines(bijectors, net(x).reshape(*x.shape[:-1], moved, 23))

    return bijectors.RealNVP(-masked if k % 2 else masked, bijector_fn=splines)


def _tfp_triangular(bijectors, D, C, H, k, rng):
    from jax import numpy

    shift, entries = (numpy.asarray(rng.normal(size=size)) for size in (D, D * (D + 1) // 2))
    scale = bijectors.FillScaleTriL(diag_shift=np.float64(1e-5)).forward(entries)
    return bijectors.Chain([bijectors.Shift(shift), bijectors.ScaleMatvecTriL(scale_tril=scale)])


def _tfp_lu(bijectors, D, C, H, k, rng):
    from jax import numpy

    lower_upper = numpy.asarray(np.eye(D) + STIR * rng.normal(size=(D, D)))
    return bijectors.ScaleMatvecLU(lower_upper, rng.permutation(D))


def _tfp_householder(bijectors, D, C, H, k, rng):
    axis = rng.normal(size=D)
    return bijectors.Householder(axis / np.linalg.norm(axis))


def _tfp_sinh_arcsinh(bijectors, D, C, H, k, rng):
    return bijectors.SinhArcsinh(STIR * rng.normal(size=D), np.exp(STIR * rng.normal(size=D)))


def _tfp_lambert(bijectors, D, C, H, k, rng):
    scale, tail = np.exp(STIR * rng.normal(size=(2, D)))
    return bijectors.LambertWTail(rng.normal(size=D), scale, STIR * tail)


def _tfp_ffjord(bijectors, D, C, H, k, rng):
    import jax
    from tensorflow_probability.substrates.jax.bijectors import ffjord

    W, V = _weights(rng, [D + 1, H, D])

    def velocity(time, state):
        inputs = jax.numpy.concatenate([state, time + 0 * state[..., :1]], axis=-1)
        return jax.numpy.tanh(inputs @ W) @ V

    exact = ffjord.trace_jacobian_exact
    return bijectors.FFJORD(velocity, trace_augmentation_fn=exact, dtype=np.float64)


def _row(library: str, maf, spline, coupling) -> list[Peer]:
    """Return what is checked of one library."""
    return [
        Peer(library, "MAF", maf, ordered=True),
        Peer(library, "MAF", maf, ordered=True, context=2),
        Peer(library, "MAF, narrow", maf, features=6, hidden=3, ordered=True),
        Peer(library, "MAF", maf, transforms=3, context=2),
        Peer(library, "autoregressive spline", spline, ordered=True, context=2),
        Peer(library, "autoregressive spline", spline, transforms=3),
        Peer(library, coupling[0], coupling[1], transforms=4),
        Peer(library, coupling[0], coupling[1], transforms=4, context=2),
    ]


PEERS = [
    *_row("zuko", _zuko("MAF"), _zuko("NSF"), ("RealNVP", _zuko("RealNVP"))),
    *_row(
        "nflows",
        _nflows(_nflows_maf),
        _nflows(_nflows_spline),
        ("affine coupling", _nflows(_nflows_coupling)),
    ),
    *_row(
        "normflows",
        _normflows(_normflows_maf),
        _normflows(_normflows_spline),
        ("spline coupling", _normflows(_normflows_coupling)),
    ),
    *_row(
        "flowjax", _flowjax("affine"), _flowjax("spline"), ("affine coupling", _flowjax("coupling"))
    ),
    Peer("zuko", "NICE", _zuko("NICE"), transforms=4),
    Peer("zuko", "neural (NAF)", _zuko_neural("NAF"), features=3, ordered=True),
    Peer("zuko", "neural (NAF)", _zuko_neural("NAF"), features=3, context=2, ordered=True),
    Peer("zuko", "neural (UNAF)", _zuko_neural("UNAF"), features=3, ordered=True),
    Peer("zuko", "Bernstein (BPF)", _zuko("BPF"), features=3, ordered=True),
    Peer("zuko", "Bernstein (BPF)", _zuko("BPF"), features=3, context=2, transforms=2),
    Peer("zuko", "sum of squares (SOSPF)", _zuko("SOSPF"), features=3, ordered=True),
    Peer("zuko", "sum of squares (SOSPF)", _zuko("SOSPF"), features=3, context=2, transforms=2),
    Peer("zuko", "continuous (CNF)", _zuko_cnf, features=2, time_limit=120),
    Peer("zuko", "continuous (CNF)", _zuko_cnf, features=2, context=1, time_limit=120),
    Peer(
        "nflows",
        "quadratic spline",
        _nflows(_nflows_quadratic),
        features=3,
        ordered=True,
    ),
    Peer("nflows", "LU", _nflows(_nflows_linear("LULinear")), transforms=2),
    Peer("nflows", "QR", _nflows(_nflows_linear("QRLinear", num_householder=2)), transforms=2),
    Peer("nflows", "SVD", _nflows(_nflows_linear("SVDLinear", num_householder=2)), transforms=2),
    Peer("normflows", "residual", _normflows(_normflows_residual), features=3, transforms=2),
    Peer("normflows", "Glow for vectors", _normflows(_normflows_glow), transforms=6),
    Peer("normflows", "Glow for vectors", _normflows(_normflows_glow), features=5, transforms=6),
    Peer("flowjax", "block neural", _flowjax_premade(BLOCK), features=3),
    Peer("flowjax", "block neural", _flowjax_premade(BLOCK), features=3, context=2, transforms=2),
    Peer("flowjax", "triangular spline", _flowjax_premade(TRIANGULAR), transforms=3),
    Peer("flowjax", "triangular spline", _flowjax_premade(TRIANGULAR), context=2, transforms=3),
    Peer("flowjax", "planar", _flowjax_premade("planar_flow", negative_slope=0.1), transforms=3),
    Peer("pyro", "affine autoregressive", _pyro(_pyro_maf), ordered=True),
    Peer("pyro", "affine autoregressive", _pyro(_pyro_maf), transforms=3),
    Peer("pyro", "spline autoregressive", _pyro(_pyro_spline), ordered=True),
    Peer("pyro", "affine coupling", _pyro(_pyro_coupling), transforms=2),
    Peer("pyro", "spline coupling", _pyro(_pyro_spline_coupling), transforms=2),
    Peer(
        "pyro", "Householder", _pyro(_pyro_linear("householder", count_transforms=2)), transforms=2
    ),
    Peer("pyro", "matrix exponential", _pyro(_pyro_linear("matrix_exponential"))),
    Peer("pyro", "neural autoregressive, there", _pyro(_pyro_neural, back=False)),
    Peer("pyro", "block autoregressive, there", _pyro(_pyro_block, back=False)),
    Peer("pyro", "polynomial, there", _pyro(_pyro_polynomial, back=False)),
    Peer("pyro", "planar, there", _pyro(_pyro_linear("planar"), back=False), transforms=2),
    Peer("pyro", "radial, there", _pyro(_pyro_linear("radial"), back=False), transforms=2),
    Peer("pyro", "Sylvester, there", _pyro(_pyro_linear("sylvester"), back=False), transforms=2),
    Peer("tfp", "MAF", _tfp(_tfp_maf), ordered=True),
    Peer("tfp", "MAF", _tfp(_tfp_maf), ordered=True, context=2),
    Peer("tfp", "MAF, narrow", _tfp(_tfp_maf), features=6, hidden=3, ordered=True),
    Peer("tfp", "MAF", _tfp(_tfp_maf), transforms=3),
    Peer("tfp", "autoregressive spline", _tfp(_tfp_spline), ordered=True, context=2),
    Peer("tfp", "autoregressive spline", _tfp(_tfp_spline), transforms=3),
    Peer("tfp", "affine coupling", _tfp(_tfp_coupling), transforms=4),
    Peer("tfp", "affine coupling", _tfp(_tfp_coupling), context=2),
    Peer("tfp", "spline coupling", _tfp(_tfp_spline_coupling), transforms=4),
    Peer("tfp", "triangular", _tfp(_tfp_triangular)),
    Peer("tfp", "LU", _tfp(_tfp_lu), transforms=2),
    Peer("tfp", "Householder", _tfp(_tfp_householder), transforms=2),
    Peer("tfp", "sinh-arcsinh", _tfp(_tfp_sinh_arcsinh)),
    Peer("tfp", "Lambert W", _tfp(_tfp_lambert)),
    Peer("tfp", "continuous (FFJORD)", _tfp(_tfp_ffjord), features=2, time_limit=120),
]
"""What is checked, library by library."""


# ---- the record ----------------------------------------------------------------------------------


def check_peer(peer: Peer, level: str = "quick", checks=None) -> Report:
    """Build a flow and check it."""
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when jax is first imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's code
        with _float64() if "torch" in PACKAGES[peer.library] else nullcontext():
            flow = peer.build(peer.features, peer.context, peer.hidden, peer.transforms)
            functions = flow if isinstance(flow, dict) else adapt(flow, peer.features, peer.context)
            if peer.ordered:
                functions["allowed"] = np.tri(peer.features, dtype=bool)
            return check_flow(functions, level=level, checks=checks, time_limit=peer.time_limit)


@contextmanager
def _float64() -> Iterator[None]:
    """Make float64 what torch creates.

    After ``.double()`` alone, nflows and normflows mix it with float32.
    """
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def read(path: str | os.PathLike = RECORD) -> dict[str, dict]:
    """Return what was found of each flow, by its library and name; nothing without a record."""
    if not Path(path).exists():
        return {}
    return json.loads(Path(path).read_text(encoding="utf-8"))


def run(
    again: str = "",
    path: str | os.PathLike = RECORD,
    peers: Sequence[Peer] = tuple(PEERS),
    progress: bool = True,
) -> None:
    """Check every flow that the record lacks, or whose name contains ``again``; write both files.

    Every answer is kept at once: an interrupted run takes up where it ended.
    """
    known = read(path)
    wanted = [peer for peer in peers if peer.name not in known or (again and again in peer.name)]
    for peer in bar(wanted, desc="flows", unit="flow", show=progress):
        known[peer.name] = _entry(peer, check_peer(peer))
        ordered = {peer.name: known[peer.name] for peer in peers if peer.name in known}
        lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in ordered.items()]
        Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    write(read(path), Path(path).with_name(PATH.name), peers)


def _entry(peer: Peer, report: Report) -> dict[str, Any]:
    """Return what the record keeps of a report, and of which releases it speaks."""
    notes = [note for result in report.results for note in result.notes]
    late = [name for name in report.failed if report[name].reason.startswith("gave no answer")]
    waited = {"waited": peer.time_limit} if late else {}
    return {
        "releases": {package: version(package) for package in PACKAGES[peer.library]},
        "passed": report.passed,
        "failed": {name: _said(report[name]) for name in report.failed if name not in late},
        "late": late,
        **waited,
        "not_run": report.not_run,
        "notes": sorted(set(notes)),
    }


def _said(result) -> str:
    """Return a result's reason in one line, or its numbers; of several like problems the first."""
    first, *others = _untraced(" ".join(result.reason.split())).split("; ")
    more = f" (and {len(others)} more)" if others else ""
    if not result.tolerance:  # nothing was measured
        return first + more
    numbers = f"error {result.measured:.1e} where {result.tolerance:.1e} is allowed"
    return f"{first}{more}: {numbers}" if first else numbers


def _untraced(reason: str) -> str:
    """Leave out a traceback, whose paths are a machine's; what it ends in stays."""
    said, trace, rest = reason.partition("Traceback (most recent call last)")
    ends = re.findall(r"[\w.]*(?:Error|Exception): [^.]*", rest)
    return said + (ends[-1] if ends else "") if trace else reason


# ---- the table -----------------------------------------------------------------------------------


def write(
    record: dict[str, dict],
    path: str | os.PathLike = PATH,
    peers: Sequence[Peer] = tuple(PEERS),
) -> None:
    """Write the table of a record, above the findings that were written by hand."""
    there = Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""
    _, mark, findings = there.partition(FILED)
    Path(path).write_text(table(record, peers) + mark + findings, encoding="utf-8")


def table(record: dict[str, dict], peers: Sequence[Peer] = tuple(PEERS)) -> str:
    """Return the table of flows, and the lists of what was found, in Markdown."""
    missing = [peer.name for peer in peers if peer.name not in record]
    releases = sorted({pair for entry in record.values() for pair in entry["releases"].items()})
    lines = [
        "# The checks on flows of other libraries",
        "",
        "Written by `python -m afnp.verify.mutants --peers` at level `quick`: "
        + ", ".join(" ".join(pair) for pair in releases)
        + ".",
        "Float64; parameters moved away from their start by normal noise of standard deviation "
        f"{STIR}. D features, H hidden units, T transforms, C context inputs.",
        "",
        "A check that gave no answer within the seconds in brackets is named as such; "
        f"others had {TIME_LIMIT:.0f}.",
        "",
        "| library | flow | passed | failed | no answer | not run |",
        "|---|---|---:|---|---|---:|",
    ]
    for name, entry in record.items():
        library, flow = name.split(": ", 1)
        failed, late = (", ".join(entry[key]) or "none" for key in ("failed", "late"))
        late += f" ({entry['waited']:.0f})" if entry["late"] else ""
        passed, not_run = (len(entry[key]) for key in ("passed", "not_run"))
        lines.append(f"| {library} | {flow} | {passed} | {failed} | {late} | {not_run} |")
    if missing:
        lines += ["", "Not run yet: " + "; ".join(missing) + "."]
    lines += ["", "## What the failed checks say", ""]
    lines += ["A dependency also counts as dead if a ReLU was off wherever the check looked.", ""]
    for name, entry in record.items():
        lines += [f"- {name}: **{check}**: {said}" for check, said in entry["failed"].items()]
    lines += ["", "## What passed, but should be known", ""]
    lines += [
        f"- {library}: {note} ({count} of its flows)"
        for (library, note), count in _noted(record).items()
    ]
    return "\n".join(lines) + "\n"


def _noted(record: dict[str, dict]) -> Counter[tuple[str, str]]:
    """Return what checks noted, by library, and of how many of its flows."""
    return Counter(
        (name.split(": ", 1)[0], note) for name, entry in record.items() for note in entry["notes"]
    )
