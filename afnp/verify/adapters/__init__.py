r"""Flows of other libraries, as functions of NumPy arrays.

.. math:: \text{flow} \to \{\, x \mapsto (u, \log|\det \tfrac{\partial u}{\partial x}|), \;
          u \mapsto (x, \log|\det \tfrac{\partial x}{\partial u}|), \; x \mapsto \log p, \;
          (n, \mathrm{rng}) \mapsto x, \; x \mapsto J \,\}

Recognised by the modules that a class comes from and by the methods that it has; nothing is
imported before a flow of its library is given. Flows of PyTorch are copied, in float64 and in
evaluation mode; those of JAX are cast. Directions are named by what they do: *normalize* goes to
the noise, whatever the library calls forward.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from typing import Any

from afnp.verify.adapters.duck import METHODS, duck_flow
from afnp.verify.adapters.jax import flowjax_flow, tfp_flow
from afnp.verify.adapters.torch import nflows_flow, normflows_flow, zuko_flow

__all__ = ["FORMS", "adapt"]

KNOWN = {
    "zuko": zuko_flow,
    "nflows": nflows_flow,
    "normflows": normflows_flow,
    "flowjax": flowjax_flow,
}
"""By the package that a class of the flow comes from."""

DISTRIBUTION = ("bijector", "distribution", "log_prob", "sample")
"""What TensorFlow Probability's transformed distributions have."""

FORMS = (
    "a flow of afnp, zuko, nflows, normflows or flowjax, or a distribution with a bijector; "
    "an object with some of the methods normalize, generate, log_prob, sample, and features; "
    "or those functions: check_flow(normalize=f, generate=g, features=3)"
)
"""The three forms in which a flow may be given."""


def adapt(flow: Any, features: int | None = None, context: int | None = None) -> dict[str, Any]:
    """Return a flow of another library as the arguments of :func:`afnp.verify.check_flow`.

    Parameters
    ----------
    flow : object
        A flow of zuko, nflows, normflows or flowjax; anything with a bijector, a distribution and
        log_prob; or anything with ``features`` and some of the methods normalize, generate,
        log_prob and sample, of NumPy arrays or of tensors.
    features, context : int, optional
        D and C, where the flow does not say.

    Returns
    -------
    dict
        normalize, generate, log_prob and sample; a jacobian by the library's own differentiation,
        where it has one; features, context and dtype.

    Raises
    ------
    ValueError
        If the flow is of no known kind, or its number of features is needed.

    Examples
    --------
    >>> adapt(object())                                                   # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: flow: expected a flow of afnp, zuko, nflows, normflows or flowjax, or ...
    """
    adapter = _adapter(flow)
    if adapter is None:
        kind = f"{type(flow).__module__}.{type(flow).__name__}"
        raise ValueError(f"flow: expected {FORMS}; got {kind}")
    found = adapter(flow, features, context)
    if not found.get("features"):
        raise ValueError(
            f"features: expected their number, which this {type(flow).__name__} does not say"
        )
    return found


def _adapter(flow: Any):
    """Return the adapter of the library that the flow's class, or one of its bases, comes from."""
    for cls in type(flow).__mro__:
        package = cls.__module__.split(".")[0]
        if package in KNOWN:
            return KNOWN[package]
    if all(hasattr(flow, name) for name in DISTRIBUTION):
        return tfp_flow
    if any(callable(getattr(flow, name, None)) for name in METHODS):
        return duck_flow
    return None
