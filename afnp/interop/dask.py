r"""Densities, noise and samples of arrays larger than memory, on dask's schedulers and clusters.

.. math:: x_r = f^{-1}(u_r), \qquad
          u_r \text{ from the stream } \mathrm{Philox}(\text{seed}, \lfloor r / B \rfloor)

Row r is always computed at place r mod B of a batch of B rows, and its noise comes from a stream
that is found by counting: Philox is a function of seed and counter (J. Salmon et al. 2011,
*Parallel random numbers: as easy as 1, 2, 3*). So results do not depend on chunks or workers, to
the last bit, on machines of one kind. Give each worker one thread for matrix
products (``OMP_NUM_THREADS=1``), and as many workers as there are cores.

Letters: N rows, D features, C context inputs, B rows a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dask
import dask.array as da
import numpy as np

from afnp.flow import Flow
from afnp.inputs import check_rows, in_order, integer

__all__ = ["BATCH", "log_prob", "normalize", "sample", "score"]

BATCH = 1024
"""B: enough rows for fast products, few enough to be recomputed where a chunk cuts a batch."""


def log_prob(flow: Flow, x, context=None) -> da.Array:
    """Return the log-density of each row of x, lazily: a dask array (N,), nats.

    Parameters
    ----------
    flow : Flow
    x : dask array (N, D) or dask DataFrame
    context : dask array (N, C) or dask DataFrame, optional

    Raises
    ------
    ValueError
        If widths or lengths do not go with the flow; errors of values come when it is computed.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.made(2, hidden=(4,))
    >>> x = da.zeros((5000, 2), chunks=(1700, 2))
    >>> log_prob(flow, x).mean().compute().round(6) == flow.log_prob(np.zeros((1, 2)))[0].round(6)
    np.True_
    """
    arrays = _tables(flow, x, context)
    return da.map_blocks(
        _on_rows,
        *arrays,
        function=_log_prob,
        flow=dask.delayed(flow),
        dtype=flow.dtype,
        drop_axis=1,
        meta=np.empty(0, dtype=flow.dtype),
    )


def score(flow: Flow, x, context=None) -> da.Array:
    """Return the gradient of log p at each row of x, lazily: a dask array (N, D), nats per unit.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.made(2, hidden=(4,))
    >>> x = da.ones((3000, 2), chunks=(1000, 2))
    >>> bool(np.allclose(score(flow, x).compute(), flow.score(np.ones((1, 2)))))
    True
    """
    x, *rest = _tables(flow, x, context)
    return da.map_blocks(
        _on_rows,
        x,
        *rest,
        function=_score,
        flow=dask.delayed(flow),
        dtype=flow.dtype,
        chunks=(x.chunks[0], (flow.features,)),
        meta=np.empty((0, 0), dtype=flow.dtype),
    )


def normalize(flow: Flow, x, context=None) -> tuple[da.Array, da.Array]:
    """Map x to noise, lazily: dask arrays u (N, D) and log|det du/dx| (N,), nats."""
    x, *rest = _tables(flow, x, context)
    both = da.map_blocks(
        _on_rows,
        x,
        *rest,
        function=_normalize,
        flow=dask.delayed(flow),
        dtype=flow.dtype,
        chunks=(x.chunks[0], (flow.features + 1,)),
        meta=np.empty((0, 0), dtype=flow.dtype),
    )
    return both[:, :-1], both[:, -1]


def sample(flow: Flow, n: int, chunks: int = 100_000, seed: int = 0, context=None) -> da.Array:
    """Draw n rows, lazily: a dask array (n, D), the same for any ``chunks`` and any cluster.

    Parameters
    ----------
    flow : Flow
    n : int
    chunks : int
        Rows a chunk.
    seed : int
        At least 0, less than 2**128.
    context : dask array (n, C) or dask DataFrame, optional
        One row a sample; its chunks are the result's.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.made(2, hidden=(4,))
    >>> few, many = (sample(flow, 5000, chunks=c).compute() for c in (5000, 777))
    >>> bool((few == many).all())
    True
    """
    n, chunks = integer("n", n, least=0), integer("chunks", chunks, least=1)
    seed = integer("seed", seed, least=0)
    if (context is None) != (flow.context == 0):
        raise ValueError(f"context: expected {flow.context or 'no'} columns")
    if context is None:
        rows = da.zeros((n, 0), chunks=(chunks, 0), dtype=flow.dtype)
    else:
        rows = _table(context, flow.context, "context", flow.context_columns)
        if len(rows) != n:
            raise ValueError(f"context: expected {n} rows, got {len(rows)}")
    return da.map_blocks(
        _on_rows,
        rows,
        function=_Sampler(seed),
        flow=dask.delayed(flow),
        names=("context",),
        dtype=flow.data_dtype,
        chunks=(rows.chunks[0], (flow.features,)),
        meta=np.empty((0, 0), dtype=flow.data_dtype),
    )


# ---- what workers do -----------------------------------------------------------------------------


def _on_rows(
    *arrays: np.ndarray,
    function: Callable,
    flow: Flow,
    names: Sequence[str] = ("x", "context"),
    block_info=None,
) -> np.ndarray:
    """Apply a function to a chunk, in batches of B rows that are laid out by the rows' numbers."""
    start, stop = block_info[0]["array-location"][0]
    for name, a in zip(names, arrays, strict=False):
        check_rows(a, None, a.dtype, name, first=start)
    if start == stop:
        return function(flow, 0, *(np.zeros((BATCH, *a.shape[1:])) for a in arrays))[:0]
    first, last = start // BATCH, -(-stop // BATCH)
    before, after = start - first * BATCH, last * BATCH - stop
    padded = [
        np.concatenate([np.repeat(a[:1], before, 0), a, np.repeat(a[:1], after, 0)]) for a in arrays
    ]
    results = [
        function(flow, first + k, *(a[k * BATCH : (k + 1) * BATCH] for a in padded))
        for k in range(last - first)
    ]
    return np.concatenate(results)[before : before + stop - start]


def _log_prob(flow: Flow, batch: int, x, context=None) -> np.ndarray:
    return flow.log_prob(x, context)


def _score(flow: Flow, batch: int, x, context=None) -> np.ndarray:
    return flow.score(x, context)


def _normalize(flow: Flow, batch: int, x, context=None) -> np.ndarray:
    u, log_det = flow.normalize(x, context)
    return np.concatenate([u, log_det[:, None]], axis=1)


class _Sampler:
    """Draw a whole batch from the stream of its number."""

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, flow: Flow, batch: int, context) -> np.ndarray:
        stream = np.random.Philox(key=self.seed, counter=[0, 0, 0, batch])
        rng = np.random.Generator(stream)
        return flow.sample(BATCH, rng, context if flow.context else None)


# ---- what comes in -------------------------------------------------------------------------------


def _tables(flow: Flow, x, context) -> list[da.Array]:
    """Return x, and the context where there is one, as arrays of equal chunks of rows."""
    if not isinstance(flow, Flow):
        raise ValueError(f"flow: expected a Flow, got {type(flow).__name__}")
    x = _table(x, flow.features, "x", flow.columns)
    if (context is None) != (flow.context == 0):
        raise ValueError(f"context: expected {flow.context or 'no'} columns")
    if context is None:
        return [x]
    context = _table(context, flow.context, "context", flow.context_columns)
    if len(context) != len(x):
        raise ValueError(f"context: expected {len(x)} rows, got {len(context)}")
    return [x, context.rechunk({0: x.chunks[0]})]


def _table(table, width: int, name: str, columns: Sequence[str] | None) -> da.Array:
    """Return a dask array (N, width) whose chunks hold whole rows, of known number.

    The columns of a DataFrame are put into the order of their known names, if there are any.
    """
    if not dask.is_dask_collection(table):
        raise ValueError(f"{name}: expected a dask array or DataFrame, got {type(table).__name__}")
    if not isinstance(table, da.Array):
        if columns is not None:
            places = in_order(table.columns, columns, name)
            table = table[[table.columns[place] for place in places]]
        table = table.to_dask_array(lengths=True)
    if table.ndim != 2 or table.shape[1] != width:
        raise ValueError(f"{name}: expected {width} columns, got shape {table.shape}")
    if np.isnan(table.shape[0]):
        table = table.compute_chunk_sizes()
    return table.rechunk({1: -1})
