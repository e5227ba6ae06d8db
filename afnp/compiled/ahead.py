"""Compilation ahead of time: every kernel, in both precisions, and every univariate.

A kernel is compiled when it is first called, which takes a second or two, and kept on disk; this
calls all of them on a few rows of a tiny network. Whoever prepares a machine, an image or a class
does it once, and nobody waits afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from afnp.compiled import adam, compiler, stages
from afnp.compiled.univariate import dispatch
from afnp.messages import for_bars
from afnp.sampling.fixed_point import Jacobi
from afnp.transforms.autoregressive import convolutional, masked
from afnp.transforms.base import Transform

__all__ = ["compile_ahead"]

MANY, FEW = 16, 2
"""Rows for the tiles, and for those who take a handful."""


def compile_ahead(progress: bool = True) -> int:
    """Compile everything that flows may call, and keep it; return how many functions are ready.

    Parameters
    ----------
    progress : bool
        Show a bar.

    Examples
    --------
    >>> compile_ahead(progress=False)                                           # doctest: +SKIP
    98
    """
    jobs = [job for dtype in (np.float64, np.float32) for job in _jobs(np.dtype(dtype))]
    shown = {"desc": "compile", "unit": "job", "disable": not progress, "file": for_bars()}
    with compiler.silence(), tqdm(jobs, **shown) as bar:
        for name, job in bar:
            bar.set_postfix_str(name)
            job()
    return len(jobs)


def _jobs(dtype: np.dtype) -> list[tuple[str, Callable]]:
    """Return what must be called once, with a name for each."""
    kernels = [
        *_of_layer(masked(3, (4,), order=[0, 1, 2]), dtype, jacobi=True),
        *_of_layer(convolutional(3, channels=2, dilations=(1,)), dtype),
        ("adam", lambda: adam.step(*np.zeros((4, 2), dtype), 0.9, 0.999, 1e-3, 1e-8, 1.0, 1.0)),
        ("norm", lambda: adam.squared_length(np.zeros(2, dtype))),
    ]
    entries = [
        (
            f"{kind.__name__}.{name}",
            lambda kind=kind, name=name: dispatch.address(kind, name, dtype),
        )
        for kind in dispatch.CODE
        for name in ("normalize", "generate", "backward")
    ]
    return [(f"{name}, {dtype}", job) for name, job in [*kernels, *entries]]


def _of_layer(layer: Transform, dtype: np.dtype, jacobi: bool = False) -> list[tuple]:
    """Return the jobs of one layer: both directions for many rows and for few, and the gradient."""
    stage = stages.compiled(layer)
    theta = np.zeros(layer.layout.size, dtype)
    p, name = stage.layout.views(theta), type(layer.conditioner).__name__

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((n, layer.features), dtype), np.zeros((n, 0), dtype)

    def gradient() -> None:
        x, context = rows(MANY)
        u, log_det, cache = stage.normalize(p, x, context)
        stage.backward(p, cache, u, log_det, stage.layout.views(np.zeros_like(theta)))

    jobs = [("gradient", gradient)]
    for n in (MANY, FEW):
        jobs += [
            (f"density of {n}", lambda n=n: stage.evaluate(p, *rows(n))),  # type: ignore[misc]
            (f"samples of {n}", lambda n=n: stage.generate(p, *rows(n))),  # type: ignore[misc]
        ]
    if jacobi:
        jobs.append(("iterations", lambda: stage.sampler(Jacobi())(p, *rows(MANY))))
    return [(f"{name} {what}", job) for what, job in jobs]
