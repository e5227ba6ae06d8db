r"""The flow in NumPy: afnp itself, and what the machine can do.

.. math:: u = \tau(h, x), \qquad h = \mathrm{MADE}(x), \qquad
          \tau \text{ affine, or a spline of K bins}

Each file ``library_*.py`` puts its libraries behind one face: build the flow, call it, show its
networks. Each class says in ``setup`` what had to be set right for its library to compute the
formula. Nothing is imported before ``load``: the file runs in a process that belongs to one
library, see :mod:`figures.bench.worker`.

Letters: N rows, D features, H hidden units, T transforms, n params a feature.
"""

from __future__ import annotations

import os
from typing import Any

__all__ = ["LIBRARIES"]

RATE = 1e-5
"""Learning rate of the training step: the flow stays where it is, however often it is timed."""

BOUND = 5.0
"""Splines bend within [-5, 5]."""


class Afnp:
    """The package itself: what ``backend="auto"`` chooses."""

    package = "afnp"
    setup = "as it comes"
    spline = (
        "nsf(bins=K, bound=5), 3 K - 1 params a feature; last layers' weights a hundred times as "
        "large as drawn, as large as the others': near the identity, a proof would prove little"
    )

    def load(self) -> None:
        """Import the library."""
        import numpy

        from afnp import constructors, train
        from afnp.networks import masks

        self.np = numpy
        self.masks = masks
        self.make = constructors
        self.make_adam = train.Adam

    def build(self, D: int, H: int, T: int, seed: int, bins: int = 0) -> None:
        """Make the flow and the optimiser."""
        same: dict = {"hidden": (H, H), "transforms": T, "dtype": self.np.float32, "seed": seed}
        if bins:
            self.flow = self.make.nsf(D, bins=bins, bound=BOUND, **same)
            for p in self.flow.split(self.flow.theta):
                p["W2"] *= 100
        else:
            self.flow = self.make.maf(D, **same)
        self.adam: Any = None
        self.parameters = self.flow.theta.size
        self.gradient = self.np.empty_like(self.flow.theta)
        self.rng = self.np.random.default_rng(seed)

    def data(self, x):
        """Return rows (N, D) as the library takes them."""
        return x

    def log_prob(self, x):
        """Return the log-density of rows, (N,)."""
        return self.flow.log_prob(x)

    def sample(self, n: int):
        """Draw n rows."""
        return self.flow.sample(n, self.rng)

    def train(self, x) -> float:
        """Take a step of Adam; return the loss."""
        loss, grad = self.flow.loss_and_grad(x, out=self.gradient)
        if self.adam is None:
            self.adam = self.make_adam(
                grad.size, grad.dtype, backend=self.flow.plan("auto", len(x)).engine
            )
        self.adam.step(self.flow.theta, grad, RATE)
        return loss

    def networks(self) -> list[dict]:
        """Return each transform's weights, masks, biases, and features' places before and after."""
        found = []
        for layer, p in zip(self.flow.layers, self.flow.split(self.flow.theta), strict=True):
            linears = layer.conditioner.linears
            found.append(
                {
                    "before": layer.order,
                    "after": layer.rank,
                    "W": [p[linear.W] for linear in linears],
                    "b": [p[linear.b] for linear in linears],
                    "mask": [
                        self.masks.mask(linear.prefix, p[linear.W].shape[1]) for linear in linears
                    ],
                }
            )
        return found

    def raw(self, k: int, x):
        """Return transform k's raw conditioner outputs, (N, n D), from features in its order."""
        p = self.flow.split(self.flow.theta)[k]
        return self.flow.layers[k].conditioner.forward(p, x[:, :0], x)[0].reshape(len(x), -1)

    def threads(self) -> dict[str, int]:
        """Return how many threads the library's own pools have."""
        from afnp.compiled.threads import workers

        return {"numba": workers()}


class Machine:
    """What the machine can do at best: NumPy's matrix product, and copies by all cores."""

    package = "numpy"
    setup = (
        "float32 matrix product (2048 x 2048) and copy (128 MiB), the limits of what the "
        "machine can do"
    )
    parameters = 0

    def load(self) -> None:
        """Import the library."""
        import concurrent.futures

        import numpy

        self.np = numpy
        self.cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        self.pool = concurrent.futures.ThreadPoolExecutor(self.cores)

    def build(self, D: int, H: int, T: int, seed: int, bins: int = 0) -> None:
        """Keep a generator."""
        self.rng = self.np.random.default_rng(seed)

    def matmul(self, n: int):
        """Return a call that multiplies two n x n matrices."""
        a, b = self.rng.standard_normal((2, n, n), dtype=self.np.float32)
        out = self.np.empty_like(a)
        return lambda: self.np.matmul(a, b, out=out)

    def copy(self, n: int):
        """Return a call that copies n numbers, each thread its share."""
        source = self.rng.standard_normal(n, dtype=self.np.float32)
        target = self.np.zeros_like(source)
        shares = (self.np.array_split(a, self.cores) for a in (target, source))
        parts = list(zip(*shares, strict=True))
        return lambda: list(self.pool.map(lambda part: self.np.copyto(*part), parts))

    def read(self, n: int):
        """Return a call that reads n numbers, in one thread."""
        source = self.rng.standard_normal(n, dtype=self.np.float32)
        return lambda: self.np.add.reduce(source)

    def threads(self) -> dict[str, int]:
        """Return how many threads copy."""
        return {"copy": self.cores}


LIBRARIES: dict[str, Any] = {"afnp": Afnp, "machine": Machine}
