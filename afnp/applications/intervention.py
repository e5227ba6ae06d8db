r"""Interventions and counterfactuals: hold a feature at a value, and let its effects follow.

.. math::
    x_i = F_i(u_i;\, x_{\mathrm{anc}(i)}) \quad (i \notin J), \qquad x_j = v_j \quad (j \in J)

An autoregressive flow is a system of structural equations: each feature is made from its own noise
and from features before it. Under *do(x_J = v)* the equations of J are replaced by constants and
all others stay (Pearl; for flows arXiv 2306.05415). What is not reached from J keeps its values.

With the noise of observed rows this answers *what would have been* (a counterfactual); with fresh
noise it samples the distribution under the intervention. Conditioning is something else: it would
also change what is believed of the causes of x_J. **What it means is up to the graph**: a flow's
density is right whatever the arrows' directions are, its answers here only if they are the causes'.

Letters: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from afnp.inputs import finite_array
from afnp.networks.graph import cycle_of, follow, topological

if TYPE_CHECKING:
    from afnp.flow import Flow

__all__ = ["intervene"]


def intervene(flow: Flow, x, do: Mapping, context=None, backend: str = "auto") -> np.ndarray:
    r"""Return rows as they would be with the same noise, had some features been held at values.

    .. math:: x'_j = v_j \; (j \in J), \qquad u_i(x') = u_i(x) \; (i \notin J)

    ``intervene(flow, flow.sample(n), do)`` are n samples of p(x | do(x_J = v)).

    Parameters
    ----------
    flow : Flow
        All of its transforms keep to one order or one ``structure``.
    x : (N, D) array
        Rows that were observed, or sampled.
    do : mapping
        From a feature, by number or by its name in ``flow.columns``, to a value, or to one a row
        (N,).
    context : (N, C) or (1, C) array, optional
    backend : {"auto", "numpy", "numba"}

    Returns
    -------
    (N, D) array

    Raises
    ------
    ValueError
        If the flow has features that depend on each other, or a feature or a value makes no sense.

    Examples
    --------
    Rain makes the grass wet, and wet grass does not make rain:

    >>> import afnp
    >>> flow = afnp.maf(2, hidden=(8,), transforms=1, structure=[[0, 0], [1, 0]], seed=0)
    >>> x = flow.sample(1000, rng=0)
    >>> dry = intervene(flow, x, {1: -2.0})
    >>> bool(np.allclose(dry[:, 0], x[:, 0])), bool((dry[:, 1] == -2).all())
    (True, True)
    """
    held = _held(flow, do)
    u, _ = flow.normalize(x, context, backend)
    values = {j: finite_array(v, f"do[{j}]") for j, v in held.items()}
    for j, v in values.items():
        if v.shape not in ((), (len(u),)):
            raise ValueError(f"do[{j}]: expected a number or {len(u)} of them, got {v.shape}")
    for j in sorted(values, key=_places(flow).__getitem__):
        moved, _ = flow.generate(u, context, backend=backend)
        moved[:, j] = values[j]
        u[:, j] = flow.normalize(moved, context, backend)[0][:, j]
    result, _ = flow.generate(u, context, backend=backend)
    for j, v in values.items():
        result[:, j] = v
    return result


def _held(flow: Flow, do: Mapping) -> dict[int, ArrayLike]:
    """Return the values by the numbers of features."""
    if not isinstance(do, Mapping):
        raise ValueError(f"do: expected a mapping from features to values, got {do!r}")
    names = {name: i for i, name in enumerate(flow.columns or ())}
    held = {}
    for feature, value in do.items():
        number = names.get(feature, feature) if isinstance(feature, str) else feature
        if not isinstance(number, (int, np.integer)) or not 0 <= number < flow.features:
            known = f"0 to {flow.features - 1}" + (f" or one of {list(names)}" if names else "")
            raise ValueError(f"do: expected features {known}, got {feature!r}")
        held[int(number)] = value
    return held


def _places(flow: Flow) -> np.ndarray:
    """Return the place of each feature in an order in which the whole flow generates, (D,)."""
    may = follow([layer.allowed() for layer in flow.layers]) & ~np.eye(flow.features, dtype=bool)
    cycle = cycle_of(may)
    if cycle:
        raise ValueError(
            f"flow: expected transforms of one order, or of one structure; here features {cycle} "
            "depend on each other"
        )
    return np.argsort(topological(may))
