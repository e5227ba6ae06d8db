r"""Flows that nobody here wrote: the kit on released zuko, nflows, normflows and flowjax.

.. math:: \text{finding} = (\text{library}, \text{flow}, \text{check}, \text{what it says})

Each flow is built as its library's documentation has it, in float64, and its parameters are moved
away from their start, which hides most defects. One transform alone is held to its order; where
several are stacked, everything may depend on everything. ``python -m afnp.verify.mutants --peers``
writes the table (extra ``bench``).

Letters: D features, C context inputs, H hidden units, T transforms.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from afnp.progress import bar
from afnp.verify.adapters import adapt
from afnp.verify.report import Report
from afnp.verify.runner import check_flow

__all__ = ["PEERS", "Peer", "check_peer", "write"]

PATH = Path(__file__).with_name("PEERS.md")
"""Where the table is kept."""

STIR = 0.3
"""Standard deviation of what is added to every parameter."""

TIME_LIMIT = 1200.0
"""Seconds a check: some invert by D network passes."""

PACKAGES = ("zuko", "nflows", "normflows", "flowjax", "torch", "jax")


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
    """

    library: str
    kind: str
    build: Callable[..., Any]
    features: int = 4
    context: int = 0
    hidden: int = 16
    transforms: int = 1
    ordered: bool = False

    def __str__(self) -> str:
        """Say what flow it is."""
        sizes = f"D = {self.features}, H = {self.hidden}, T = {self.transforms}"
        return f"{self.kind}, {sizes}" + (f", C = {self.context}" if self.context else "")


# ---- their flows ---------------------------------------------------------------------------------


def _zuko(kind: str):
    def build(D: int, C: int, H: int, T: int):
        import zuko

        return _stirred(getattr(zuko.flows, kind)(D, C, transforms=T, hidden_features=(H, H)))

    return build


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


def _stirred(flow):
    """Return a torch module in float64 with its parameters moved."""
    import torch

    flow, generator = flow.eval(), torch.Generator().manual_seed(0)
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

        base, key, cond = distributions.StandardNormal((D,)), random.key(0), C or None
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
]
"""What is checked, library by library."""


# ---- the table -----------------------------------------------------------------------------------


def check_peer(peer: Peer, level: str = "quick", checks=None) -> Report:
    """Build a flow and check it."""
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # read when jax is first imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's code
        with _float64():
            flow = peer.build(peer.features, peer.context, peer.hidden, peer.transforms)
            functions = adapt(flow, features=peer.features, context=peer.context)
            if peer.ordered:
                functions["allowed"] = np.tri(peer.features, dtype=bool)
            return check_flow(functions, level=level, checks=checks, time_limit=TIME_LIMIT)


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


def write(path: str | os.PathLike = PATH, level: str = "quick", peers=tuple(PEERS)) -> None:
    """Check every flow and write the table."""
    reports = [(peer, check_peer(peer, level)) for peer in bar(peers, desc="flows", unit="flow")]
    Path(path).write_text(_markdown(reports, level), encoding="utf-8")


def _markdown(reports: list[tuple[Peer, Report]], level: str) -> str:
    """Return the table of flows, and the list of findings."""
    packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    lines = [
        "# The checks on flows of other libraries",
        "",
        f"Written by `python -m afnp.verify.mutants --peers` at level `{level}`: {packages}.",
        "Float64; parameters moved away from their start by normal noise of standard deviation "
        f"{STIR}. D features, H hidden units, T transforms, C context inputs.",
        "",
        "| library | flow | passed | failed | not run |",
        "|---|---|---:|---|---:|",
    ]
    for peer, report in reports:
        failed = ", ".join(report.failed) or "none"
        lines.append(
            f"| {peer.library} | {peer} | {len(report.passed)} | {failed} | {len(report.not_run)} |"
        )
    lines += ["", "## What the failed checks say", ""]
    lines += ["A dependency also counts as dead if a ReLU was off wherever the check looked.", ""]
    for peer, report in reports:
        for name in report.failed:
            lines.append(f"- {peer.library}, {peer}: **{name}**: {_said(report[name])}")
    lines += ["", "## What passed, but should be known", ""]
    for (library, note), kinds in _notes(reports).items():
        lines.append(f"- {library}: {note} ({len(kinds)} of its flows)")
    return "\n".join(lines) + "\n"


def _notes(reports: list[tuple[Peer, Report]]) -> dict[tuple[str, str], list[str]]:
    """Return what checks noted, by library, with the flows it was noted of."""
    found: dict[tuple[str, str], list[str]] = {}
    for peer, report in reports:
        for note in dict.fromkeys(note for result in report.results for note in result.notes):
            found.setdefault((peer.library, note), []).append(str(peer))
    return found


def _said(result) -> str:
    """Return a result's reason in one line, or its numbers; of several like problems the first."""
    first, *others = " ".join(result.reason.split()).split("; ")
    if first:
        return first + (f" (and {len(others)} more)" if others else "")
    return f"error {result.measured:.1e} where {result.tolerance:.1e} is allowed"
