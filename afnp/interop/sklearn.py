r"""scikit-learn's face: densities, outlier detection and conditional distributions as estimators.

.. math:: \texttt{score\_samples}(x_n) = \log p(x_n), \qquad
          \texttt{predict}(x_n) = E[\,y \mid x_n\,]

They have ``fit``, ``get_params`` and what else ``check_estimator`` asks for, so they work in
``Pipeline``, ``GridSearchCV``, ``cross_val_score``, ``clone`` and joblib. The trained flow is
``flow_``, an ordinary one: :func:`afnp.save` writes it. Rows are standardised inside the flow, so
log-likelihoods are in nats per unit of the given features.

DataFrames are taken by the names that ``fit`` saw; other names, or another order of them, are
refused. Where names came in, names go out: samples and predictions are DataFrames again (of y,
under the names of y; a prediction of a Series is a Series).

Equal rows are counted, not repeated, before anything else is done. So a ``sample_weight`` of whole
numbers gives the very flow that so many equal rows give, whatever the size of a batch, a weight of
0 that of the other rows alone, and no row validates that has a copy among those that train.
:class:`afnp.advice.DataWarning` says what makes a fit useless, as :func:`afnp.fit` does.

Letters: N rows, M different rows, D features of what is modelled, C of what it is conditioned on, S
noise points.
"""

from __future__ import annotations

import warnings
from statistics import NormalDist

import numpy as np
from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin, RegressorMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from afnp import constructors
from afnp.advice import DataWarning, warn_of
from afnp.flow import Flow
from afnp.inputs import frame_names, frame_of, refuse_masked
from afnp.train import fit
from afnp.transforms.preprocess import Standardize, mean_and_std

__all__ = ["ConditionalFlow", "FlowDensity", "FlowOutlierDetector"]

KINDS = ("made", "maf", "iaf", "realnvp", "nice", "nsf", "maf_mog")
"""The constructors of :mod:`afnp` that an estimator can be asked for by name."""

ROUNDING = 1 + 1e-9
"""Parts of a sum of weights are compared with this much to spare."""


class _Trained(BaseEstimator):
    """What the estimators share: how a flow is built, and trained on rows."""

    def _train(self, x: np.ndarray, context: np.ndarray, sample_weight) -> Flow:
        """Build a flow for x (N, D), given a context (N, C), and fit it; keep its history."""
        if self.kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        seed, both = int(check_random_state(self.random_state).randint(2**31 - 1)), (x, context)
        rows, w = _counted(np.column_stack(both), sample_weight)
        flow = self._built(
            x.shape[1],
            context=context.shape[1],
            seed=seed,
            preprocess=[Standardize(*mean_and_std(rows[:, : x.shape[1]], w))],
        )
        counts = slice(None) if sample_weight is None else _weights_of(sample_weight, len(x)) > 0
        warn_of(flow, x[counts], context[counts])
        x, context = np.split(rows, [x.shape[1]], axis=1)
        held = self._held_out(w, len(x), seed)
        kept, validates = ~held, held.any()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataWarning)  # said, and of all rows
            self.history_ = fit(
                flow,
                x[kept],
                x[held] if validates else None,
                context=context[kept] if flow.context else None,
                context_val=context[held] if flow.context and validates else None,
                weights=None if w is None else w[kept],
                weights_val=None if w is None or not validates else w[held],
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                patience=self.patience if validates else None,
                seed=seed,
                progress=False,
            )
        return flow

    def _built(self, features: int, **given) -> Flow:
        """Return the constructor's flow, or say that it takes no such options."""
        make = getattr(constructors, self.kind)
        given |= {"hidden": self.hidden, "dtype": self.dtype}
        try:
            return make(features, **given, **(self.options or {}))
        except TypeError as error:
            raise ValueError(
                f"options: expected arguments of afnp.{self.kind} that are no parameters here, got "
                f"{self.options!r}: {error}"
            ) from error

    def _held_out(self, weights: np.ndarray | None, n: int, seed: int) -> np.ndarray:
        """Choose the rows (N,) bool that validate: none of fewer than ten, for they are needed."""
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"validation_fraction: expected 0 <= f < 1, got {self.validation_fraction}"
            )
        held = np.zeros(n, dtype=bool)
        if n >= 10:
            w = np.ones(n) if weights is None else weights
            order = np.random.default_rng(seed).permutation(n)
            share = np.cumsum(w[order]) / w.sum()
            held[order[share <= self.validation_fraction * ROUNDING]] = True
        return held


class FlowDensity(DensityMixin, _Trained):
    """A flow as a density estimator, beside ``KernelDensity`` and ``GaussianMixture``.

    Parameters
    ----------
    kind : {"made", "maf", "iaf", "realnvp", "nice", "nsf", "maf_mog"}
        Which constructor of :mod:`afnp` builds it.
    hidden : sequence of int
        Widths of the hidden layers.
    options : dict, optional
        Further arguments of the constructor: ``{"transforms": 3, "activation": "tanh"}``.
    epochs, batch_size, learning_rate : int, int, float
        As for :func:`afnp.fit`.
    validation_fraction : float
        Part of the rows that validates; the epoch that is best on it is kept. 0 trains on all rows.
    patience : int, optional
        Epochs without improvement after which training stops.
    dtype : "float64" or "float32"
    random_state : int, RandomState or None
        For initial parameters, the split, and the order of rows.

    Attributes
    ----------
    flow_ : Flow
    history_ : History
    n_features_in_, feature_names_in_

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((200, 2))
    >>> density = FlowDensity(hidden=(8,), epochs=3, random_state=0).fit(x)
    >>> density.score_samples(x).shape
    (200,)
    """

    def __init__(
        self,
        kind="maf",
        hidden=(64, 64),
        options=None,
        epochs=100,
        batch_size=100,
        learning_rate=1e-3,
        validation_fraction=0.1,
        patience=20,
        dtype="float64",
        random_state=None,
    ):
        self.kind = kind
        self.hidden = hidden
        self.options = options
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.dtype = dtype
        self.random_state = random_state

    def fit(self, X, y=None, sample_weight=None):
        """Fit the flow to X (N, D) by maximum likelihood; ``y`` is ignored.

        A ``sample_weight`` (N,) says how many rows each one counts for.
        """
        X = _rows(self, X, ensure_min_samples=2)
        self.flow_ = self._train(X, np.empty((len(X), 0)), sample_weight)
        return self

    def score_samples(self, X) -> np.ndarray:
        """Return the log-density of each row of X (N, D), in nats, (N,)."""
        check_is_fitted(self)
        return self.flow_.log_prob(_rows(self, X, reset=False))

    def score(self, X, y=None, sample_weight=None) -> float:
        """Return the mean log-density of the rows of X, weighted, in nats; ``y`` is ignored."""
        log_density = self.score_samples(X)
        w = None if sample_weight is None else _weights_of(sample_weight, len(log_density))
        return float(np.average(log_density, weights=w))

    def sample(self, n_samples=1, random_state=None):
        """Draw rows (n, D); a DataFrame if ``fit`` saw one."""
        check_is_fitted(self)
        seed = check_random_state(random_state).randint(2**31 - 1)
        x = self.flow_.sample(n_samples, rng=seed)
        return _framed(x, getattr(self, "feature_names_in_", None))


class FlowOutlierDetector(OutlierMixin, FlowDensity):
    """Rows of low density as outliers, beside ``IsolationForest`` and ``LocalOutlierFactor``.

    Parameters
    ----------
    contamination : float
        Part of the training rows, in (0, 0.5], that count as outliers; it sets the threshold.
    **others
        As for :class:`FlowDensity`.

    Attributes
    ----------
    offset_ : float
        The threshold, in nats.

    Notes
    -----
    Low density is no proof of strangeness, nor high density of normality: in many dimensions, rows
    that are simpler than all data can have more density than any of them (arXiv 1810.09136).
    """

    def __init__(
        self,
        kind="maf",
        hidden=(64, 64),
        options=None,
        epochs=100,
        batch_size=100,
        learning_rate=1e-3,
        validation_fraction=0.1,
        patience=20,
        dtype="float64",
        random_state=None,
        contamination=0.1,
    ):
        super().__init__(
            kind,
            hidden,
            options,
            epochs,
            batch_size,
            learning_rate,
            validation_fraction,
            patience,
            dtype,
            random_state,
        )
        self.contamination = contamination

    def fit(self, X, y=None, sample_weight=None):
        """Fit the flow to X (N, D), and the threshold to its log-densities; ``y`` is ignored.

        A ``sample_weight`` (N,) says how many rows each one counts for, as an outlier too.
        """
        if not 0 < self.contamination <= 0.5:
            raise ValueError(f"contamination: expected 0 < c <= 0.5, got {self.contamination}")
        super().fit(X, sample_weight=sample_weight)
        rows, w = _counted(_rows(self, X, reset=False), sample_weight)
        self.offset_ = _threshold(self.flow_.log_prob(rows), w, self.contamination)
        return self

    def decision_function(self, X) -> np.ndarray:
        """Return the log-density above the threshold, in nats, (N,): negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X) -> np.ndarray:
        """Return -1 for each row that is an outlier and 1 for the others, (N,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)


class ConditionalFlow(RegressorMixin, _Trained):
    """The whole distribution of y given x, beside regressors that give its mean alone.

    Parameters
    ----------
    kind : {"made", "maf", "iaf", "realnvp", "nice", "nsf", "maf_mog"}
        Affine flows of a single y are Gaussians given x; splines ("nsf") and mixtures are not.
    points : int
        S, the noise points that ``predict`` and ``predict_interval`` are computed from; the same
        for every row. For a single y they are the midpoints of S slices of equal probability.
    **others
        As for :class:`FlowDensity`.

    Attributes
    ----------
    flow_ : Flow
        Its context is x, standardised by ``context_``.
    """

    def __init__(
        self,
        kind="nsf",
        hidden=(64, 64),
        options=None,
        epochs=100,
        batch_size=100,
        learning_rate=1e-3,
        validation_fraction=0.1,
        patience=20,
        dtype="float64",
        random_state=None,
        points=200,
    ):
        self.kind = kind
        self.hidden = hidden
        self.options = options
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.dtype = dtype
        self.random_state = random_state
        self.points = points

    def __sklearn_tags__(self):
        """Say that y may have several columns."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Fit p(y | x) to X (N, C) and y (N,) or (N, D).

        A ``sample_weight`` (N,) says how many rows each one counts for.
        """
        names = _names_of(y)
        refuse_masked(y, "y")
        X, y = _rows(self, X, y=y, multi_output=True, y_numeric=True, ensure_min_samples=2)
        self.y_names_, self.y_ndim_ = names, y.ndim
        self.context_ = Standardize(*mean_and_std(*_counted(X, sample_weight)))
        self.flow_ = self._train(_columns(y), self._given(X), sample_weight)
        return self

    def log_prob(self, X, y) -> np.ndarray:
        """Return log p(y | x) of each row, in nats, (N,)."""
        X = self._checked(X)
        if self.y_names_ is not None and (given := _names_of(y)) not in (None, self.y_names_):
            raise ValueError(f"y: expected the columns {self.y_names_}, got {given}")
        refuse_masked(y, "y")
        y = check_array(y, dtype=np.float64, ensure_2d=False)
        return self.flow_.log_prob(_columns(y), self._given(X))

    def sample(self, X, n_samples=1, random_state=None):
        """Draw n values of y for each row of X: (N, n) or (N, n, D).

        If ``fit`` saw names of y: a DataFrame of N n rows, the n of each row of X together, under
        its label in the index of X.
        """
        given = self._given(self._checked(X))
        seed = check_random_state(random_state).randint(2**31 - 1)
        y = self.flow_.sample(n_samples, rng=seed, context=given, each=True)
        if self.y_names_ is None:
            return y[..., 0] if self.y_ndim_ == 1 else y
        frame = frame_of(X)
        index = None if frame is None else frame.index.repeat(n_samples)
        return _framed(y.reshape(-1, y.shape[-1]), self.y_names_, index)

    def predict(self, X):
        """Return the mean of y given each row of X, (N,) or (N, D)."""
        mean = self._spread(self._checked(X)).mean(axis=1)
        return self._as_given(mean, X)

    def predict_interval(self, X, coverage=0.9):
        """Return the ends of the central interval of each y that has that probability."""
        if not 0 < coverage < 1:
            raise ValueError(f"coverage: expected 0 < c < 1, got {coverage}")
        ends = [(1 - coverage) / 2, (1 + coverage) / 2]
        low, high = np.quantile(self._spread(self._checked(X)), ends, axis=1, method="hazen")
        return self._as_given(low, X), self._as_given(high, X)

    def _checked(self, X) -> np.ndarray:
        check_is_fitted(self)
        return _rows(self, X, reset=False)

    def _given(self, X: np.ndarray) -> np.ndarray:
        return (X - self.context_.mean) / self.context_.std

    def _spread(self, X: np.ndarray) -> np.ndarray:
        """Return S values of y for each row of X, (N, S, D), from the same noise for all rows."""
        D, S = self.flow_.features, self.points
        if D == 1:
            u = np.array([[NormalDist().inv_cdf((k + 0.5) / S)] for k in range(S)])
        else:
            u = np.random.default_rng(0).standard_normal((S, D))
        u, given = np.tile(u, (len(X), 1)), np.repeat(self._given(X), S, axis=0)
        return self.flow_.generate(u, given)[0].reshape(len(X), S, D)

    def _as_given(self, values: np.ndarray, X):
        """Return one value of y a row as ``fit`` saw it: a vector, a table, or one with names."""
        values = values[:, 0] if self.y_ndim_ == 1 else values
        frame = frame_of(X)
        return _framed(values, self.y_names_, None if frame is None else frame.index)


def _rows(estimator, X, **options):
    """Return what scikit-learn makes of rows X, (N, D) float64; refuse a mask, which it ignores."""
    refuse_masked(X, "X")
    return validate_data(estimator, X, dtype=np.float64, **options)


def _weights_of(sample_weight, n: int) -> np.ndarray:
    """Return weights (N,) as finite numbers of at least 0, or raise a ValueError."""
    refuse_masked(sample_weight, "sample_weight")
    w = check_array(
        sample_weight, dtype=np.float64, ensure_2d=False, allow_nd=True, input_name="sample_weight"
    )
    if w.shape != (n,):
        raise ValueError(f"sample_weight: expected {n} numbers, got shape {w.shape}")
    if (w < 0).any():
        row = int(np.argmax(w < 0))
        raise ValueError(f"sample_weight: row {row}: expected at least 0, got {w[row]}")
    if not w.any():
        raise ValueError(f"sample_weight: expected at least one weight above zero, got {n} zeros")
    return w


def _counted(table: np.ndarray, sample_weight) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the M different rows of a table, sorted, and what each weighs, (M,), or None.

    None where all weigh the same. Rows of weight 0 are none.
    """
    w = np.ones(len(table)) if sample_weight is None else _weights_of(sample_weight, len(table))
    rows, place = np.unique(table[w > 0], axis=0, return_inverse=True)
    totals = np.bincount(place.reshape(-1), w[w > 0])
    return rows, None if (totals == totals[0]).all() else totals


def _threshold(log_density: np.ndarray, weights: np.ndarray | None, part: float) -> float:
    """Return what lies halfway between the different rows below a part of all, and the others."""
    order = np.argsort(log_density)
    w = np.ones(len(order)) if weights is None else weights[order]
    below = np.searchsorted(np.cumsum(w), part * w.sum() * ROUNDING, side="right")
    s = log_density[order]
    step = s[min(1, len(s) - 1)] - s[0]
    return float((s[below - 1] if below else s[0] - step) / 2 + s[below] / 2)


def _columns(y: np.ndarray) -> np.ndarray:
    return y[:, None] if y.ndim == 1 else y


def _names_of(table) -> tuple[str, ...] | None:
    """Return the names of a DataFrame's columns or of a Series, or None for what has no names."""
    frame = frame_of(table)
    return None if frame is None else frame_names(frame)


def _framed(values: np.ndarray, names, index=None):
    """Return values as a DataFrame or Series under names, or as they are where there are none."""
    if names is None:
        return values
    import pandas as pd

    if values.ndim == 1:
        return pd.Series(values, index=index, name=names[0])
    return pd.DataFrame(values, columns=list(names), index=index)
