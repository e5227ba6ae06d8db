r"""Linear transforms without a network, which mix the features: permutations and whole matrices.

.. math::
    \text{Permutation:} \;\; u_r = x_{\mathrm{order}[r]}, \qquad
    \text{LULinear:} \;\; u = P L U x

Letters: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.inputs import integer
from afnp.networks import masks
from afnp.params import Layout, Views
from afnp.transforms.base import Transform
from afnp.transforms.cost import Cost, Work

__all__ = ["LULinear", "Permutation", "factorize", "solve_lower"]


class Permutation(Transform):
    r"""Reorder the features.

    .. math:: u_r = x_{\mathrm{order}[r]}, \qquad
              \log\left|\det \frac{\partial u}{\partial x}\right| = 0

    Parameters
    ----------
    order : a permutation of 0..D-1
        ``range(D)[::-1]`` is the reversal.

    Examples
    --------
    >>> layer = Permutation([2, 0, 1])
    >>> u, log_det, _ = layer.normalize({}, np.array([[10.0, 11.0, 12.0]]), None)
    >>> u, layer.generate({}, u, None)[0]
    (array([[12., 10., 11.]]), array([[10., 11., 12.]]))
    """

    def __init__(self, order: Sequence[int] | np.ndarray):
        if isinstance(order, str) or np.ndim(order) != 1:
            raise ValueError(f"order: expected a permutation of 0..D-1, got {order!r}")
        self.features = integer("features", len(order), least=1)
        self.order = masks.order_of(order, self.features)
        self.rank = np.argsort(self.order)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        return {"order": self.order.tolist()}

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool."""
        return np.arange(self.features) == self.order[:, None]

    def normalize(self, p, x, context):
        """Map x (N, D) to u; the log-determinant is 0."""
        return x[:, self.order], np.zeros(len(x), dtype=x.dtype), ()

    def generate(self, p, u, context):
        """Map u (N, D) back to x; the log-determinant is 0."""
        return u[:, self.rank], np.zeros(len(u), dtype=u.dtype)

    def backward(self, p, cache, d_u, d_log_det, g):
        """Return d_x: each derivative goes back to where its feature came from."""
        return d_u[:, self.rank]

    def solve_backward(self, p, cache, d_x, d_log_det):
        """Return the d_u from which ``backward`` makes d_x."""
        return d_x[:, self.order]


class LULinear(Transform):
    r"""Invertible matrix, held by its triangles (Glow, arXiv 1807.03039, section 3.2).

    .. math:: u = W x, \qquad W = P L (N + \mathrm{diag}(\sigma_i e^{s_i})), \qquad
              \log\left|\det \frac{\partial u}{\partial x}\right| = \sum_i s_i

    L has a unit diagonal and N lies strictly above it. The permutation P and the signs σ are fixed;
    so W can never become singular, and a determinant costs D additions.

    Parameters
    ----------
    features : int
        D.
    order : permutation of 0..D-1, optional
        P: output ``r`` is row ``order[r]`` of the triangles; natural if left out.
    signs : sequence of D numbers 1 or -1, optional
        σ; all 1 if left out.

    Raises
    ------
    ValueError
        If the order is no permutation, or a sign is neither 1 nor -1.

    Examples
    --------
    >>> layer = LULinear.rotation(3, np.random.default_rng(0))
    >>> p = layer.layout.views(np.zeros(layer.layout.size))
    >>> layer.initialize(p, np.random.default_rng(1))
    >>> W, log_det, _ = layer.normalize(p, np.eye(3), None)
    >>> bool(np.allclose(W @ W.T, np.eye(3))), bool(np.allclose(log_det, 0))
    (True, True)
    """

    def __init__(
        self,
        features: int,
        order: Sequence[int] | np.ndarray | None = None,
        signs: Sequence[int] | np.ndarray | None = None,
    ):
        D = self.features = integer("features", features, least=1)
        self.order = masks.order_of("natural" if order is None else order, D)
        self.signs = np.ones(D, dtype=np.int64) if signs is None else np.array(signs)
        if self.signs.shape != (D,) or not np.isin(self.signs, (-1, 1)).all():
            raise ValueError(f"signs: expected {D} numbers 1 or -1, got {signs!r}")
        self.rank = np.argsort(self.order)
        self.below = np.tri(D, k=-1, dtype=bool)
        self.above = self.below.T
        each = (D * (D - 1) // 2,)
        self.layout = Layout({"L": each, "N": each, "s": (D,)})
        self._first: dict[str, np.ndarray] = {}

    @property
    def cost(self) -> Cost:
        """What each direction costs: a product with two triangles, or their solve."""
        work = Work(0, 0, self.features**2)
        return Cost(work, work, work)

    @classmethod
    def count(cls, config: dict) -> int:
        """Return D², from integers alone."""
        return integer("features", config["features"], least=1) ** 2

    @classmethod
    def rotation(cls, features: int, rng: np.random.Generator) -> LULinear:
        """Return a layer that starts as a random rotation or reflection, uniform among all."""
        Q, R = np.linalg.qr(rng.standard_normal((features, features)))
        return cls.of(Q * np.where(np.diag(R) < 0, -1, 1))

    @classmethod
    def of(cls, W: np.ndarray) -> LULinear:
        """Return a layer that starts as an invertible matrix W (D, D).

        Raises
        ------
        ValueError
            If W is singular.

        Examples
        --------
        >>> layer = LULinear.of(np.array([[0.0, 2.0], [1.0, 1.0]]))
        >>> p = layer.layout.views(np.zeros(layer.layout.size))
        >>> layer.initialize(p, np.random.default_rng(0))
        >>> layer.normalize(p, np.array([[1.0, 3.0]]), None)[0]
        array([[6., 4.]])
        """
        order, LU = factorize(np.array(W, dtype=np.float64))
        diagonal = np.diag(LU)
        if not (np.isfinite(LU).all() and diagonal.all()):
            raise ValueError("W: expected an invertible matrix, got a singular one")
        layer = cls(len(LU), order, np.where(diagonal < 0, -1, 1))
        layer._first = {"L": LU[layer.below], "N": LU[layer.above], "s": np.log(np.abs(diagonal))}
        return layer

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        return {
            "features": self.features,
            "order": self.order.tolist(),
            "signs": self.signs.tolist(),
        }

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Start as the rotation that was drawn, or as the signed permutation P σ."""
        for name in self.layout.shapes:
            p[name][:] = self._first.get(name, 0.0)

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool: all."""
        return np.ones((self.features, self.features), dtype=bool)

    def _triangles(self, p: Views) -> tuple[np.ndarray, np.ndarray]:
        L = np.eye(self.features, dtype=p["L"].dtype)
        U = np.diag(self.signs * np.exp(p["s"])).astype(L.dtype)
        L[self.below], U[self.above] = p["L"], p["N"]
        return L, U

    def normalize(self, p, x, context):
        """Map x (N, D) to u; also give log|det du/dx| (N,) and the cache of ``backward``."""
        L, U = self._triangles(p)
        y = x @ U.T
        u = (y @ L.T)[:, self.order]
        return u, np.full(len(x), p["s"].sum(), dtype=u.dtype), (x, y)

    def generate(self, p, u, context):
        """Map u (N, D) back to x by two triangular solves; also give log|det dx/du| (N,)."""
        L, U = self._triangles(p)
        y = solve_lower(L, u[:, self.rank].T)
        x = solve_lower(U[::-1, ::-1], y[::-1])[::-1].T
        return x, np.full(len(u), -p["s"].sum(), dtype=x.dtype)

    def backward(self, p, cache, d_u, d_log_det, g):
        r"""Return d_x; add the parameters' gradients into g.

        .. math:: d_L = d_{P^\top u}^\top y, \qquad d_U = d_y^\top x, \qquad
                  d_{s_i} = (d_U)_{ii}\, \sigma_i e^{s_i} + \sum_n d_{\log\det}
        """
        x, y = cache
        L, U = self._triangles(p)
        d_z = d_u[:, self.rank]
        d_y = d_z @ L
        d_U = d_y.T @ x
        g["L"] += (d_z.T @ y)[self.below]
        g["N"] += d_U[self.above]
        g["s"] += np.diag(d_U) * np.diag(U) + d_log_det.sum()
        return d_y @ U

    def solve_backward(self, p, cache, d_x, d_log_det):
        r"""Return the d_u from which ``backward`` makes d_x.

        .. math:: U^\top d_y^\top = d_x^\top, \qquad L^\top d_{P^\top u}^\top = d_y^\top
        """
        L, U = self._triangles(p)
        d_y = solve_lower(U.T, d_x.T)
        d_z = solve_lower(L.T[::-1, ::-1], d_y[::-1])[::-1].T
        return d_z[:, self.order]


def solve_lower(L: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Solve L x = y (D, N) by forward substitution: x_i = (y_i - L_i,<i x_<i) / L_ii."""
    x = np.empty(y.shape, dtype=np.result_type(L, y))
    for i in range(len(L)):
        x[i] = (y[i] - L[i, :i] @ x[:i]) / L[i, i]
    return x


def factorize(W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return order and LU, both triangles in one matrix, with W = (L U)[order].

    Gauss, largest pivot first.
    """
    LU, rows = W.copy(), np.arange(len(W))
    for k in range(len(W)):
        pivot = k + int(np.argmax(np.abs(LU[k:, k])))
        LU[[k, pivot]], rows[[k, pivot]] = LU[[pivot, k]], rows[[pivot, k]]
        LU[k + 1 :, k] /= LU[k, k]
        LU[k + 1 :, k + 1 :] -= np.outer(LU[k + 1 :, k], LU[k, k + 1 :])
    return np.argsort(rows), LU
