r"""Trained density estimators of sbi: the flow inside, with its z-scores of data and of contexts.

.. math:: q(\theta \mid x) = p\big(\theta \mid (x - m) / s\big)

sbi calls data what a flow calls its context, and takes z-scores of both. Those of the parameters
are a layer of the flow; those of the data are what ``flow.standardize_context`` does. The flow
inside is of zuko or of nflows, and comes in by that library's door.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from afnp.flow import Flow
from afnp.interop import nflows, proof, zuko
from afnp.interop.doors import in_evaluation

__all__ = ["from_sbi"]

KINDS = ("ZukoFlow", "ZukoUnconditionalFlow", "NFlowsFlow")


def from_sbi(estimator: Any, prove: bool = True, embedded: bool = False) -> Flow:
    """Return the flow in a density estimator of sbi as one of ours.

    Parameters
    ----------
    estimator : density estimator
        What ``NPE(...).train()`` returns, of "maf", "nsf", "zuko_maf", "zuko_nsf" and their kin;
        ``posterior.posterior_estimator`` of a posterior. A posterior truncates it at the prior's
        bounds, which the flow alone does not know.
    prove : bool
        Compare log-densities and samples of 64 rows with sbi's.
    embedded : bool
        Contexts given to our flow have been through the estimator's own embedding net.

    Raises
    ------
    ValueError
        If a part of the estimator cannot be imported: it is named. An embedding net is, unless
        contexts come ``embedded``.
    ArithmeticError
        If the two compute something else.
    """
    kind = type(estimator).__name__
    if kind not in KINDS:
        hint = "; a posterior has one: posterior.posterior_estimator" * kind.endswith("Posterior")
        raise ValueError(
            f"estimator: cannot import a {kind}; expected one of {', '.join(KINDS)}{hint}"
        )
    embedding = None if kind == "ZukoUnconditionalFlow" else estimator.embedding_net
    for name in ("input_shape",) if embedding is None else ("input_shape", "condition_shape"):
        shape = tuple(vars(estimator)[f"_{name}"])
        if len(shape) != 1 and not (embedded and name == "condition_shape"):
            raise ValueError(f"{name}: expected vectors, got the shape {shape}")
    if kind == "NFlowsFlow":
        ours = nflows.flow_of(estimator.net)
    else:
        ours = zuko.read(estimator.net)
    if not embedded and embedding is not None:
        ours = _standardized(ours, _scale_of(embedding))
    if prove:
        embed = None if embedded else embedding
        with in_evaluation(estimator):
            proof.prove(ours, *_functions(estimator, kind, embed), "sbi")
    return ours


def _scale_of(embedding: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Return mean and standard deviation of an embedding that takes z-scores, or nothing."""
    scale = None
    for part in _parts_of(embedding):
        kind = type(part).__name__
        if kind != "Standardize" or scale is not None:
            raise ValueError(
                f"embedding net: cannot import a {kind}; embed contexts beforehand, and say "
                "embedded=True"
            )
        scale = part.get_buffer("_mean").cpu().numpy(), part.get_buffer("_std").cpu().numpy()
    return scale


def _parts_of(module: Any) -> list:
    """Return what a module does in turn, without what does nothing."""
    kind = type(module).__name__
    if kind == "Identity":
        return []
    if kind != "Sequential":
        return [module]
    return [part for child in module for part in _parts_of(child)]


def _standardized(flow: Flow, scale: tuple[np.ndarray, np.ndarray] | None) -> Flow:
    """Return a flow that standardises its contexts."""
    if scale is None:
        return flow
    parts = [np.broadcast_to(part, flow.context).tolist() for part in scale]
    return Flow.from_config({**flow.config(), "context_scale": parts}, theta=flow.theta)


def _functions(estimator: Any, kind: str, embedding: Any) -> tuple[Callable, Callable]:
    """Return sbi's log-density and data, over arrays; contexts go through the embedding."""
    import torch

    net = estimator.net

    def embed(context: np.ndarray | None) -> Any:
        if context is None:
            return None
        given = torch.from_numpy(context)
        return given if embedding is None else embedding(given)

    def log_prob(x: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        rows = torch.from_numpy(x)
        if embedding is not None and context is not None:  # all the way through sbi
            return estimator.log_prob(rows[None], torch.from_numpy(context))[0].numpy()
        if kind == "NFlowsFlow":
            noise, log_det = net._transform(rows, context=embed(context))
            return (net._distribution.log_prob(noise) + log_det).numpy()
        return net(embed(context)).log_prob(rows).numpy()

    def generate(u: np.ndarray, context: np.ndarray | None) -> np.ndarray:
        given = embed(context)
        if kind == "NFlowsFlow":
            return net._transform.inverse(torch.from_numpy(u), context=given)[0].numpy()
        return net(given).transform.inv(zuko.noise_of(net, u)).numpy()

    return log_prob, generate
