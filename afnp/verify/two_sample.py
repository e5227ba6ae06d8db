r"""Two sets of samples, one distribution? A classifier is asked (C2ST).

.. math:: \text{accuracy} = \frac1{2 M} \sum_n 1[\hat y_n = y_n] \;\to\;
          \tfrac12 + \tfrac12\, \mathrm{TV}(p, q) \quad \text{for the best classifier}

Lopez-Paz and Oquab (arXiv 1610.06545); network, folds and standardisation are those of the
benchmark of simulation-based inference (arXiv 2101.04653), so that numbers can be compared with its
tables. The network needs scikit-learn, the extra ``data``; nothing else here does.

Where both densities are known, q exactly and p up to a constant, the best classifier is known too
(:func:`best_accuracy`), and no network has to be trained: no classifier comes above it.

Letters: M rows of each set, D features, TV the total variation distance.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.inputs import check_rows, integer

__all__ = ["best_accuracy", "c2st", "c2st_p_value"]

WIDTH = 10
"""Hidden units for each feature, in each of two layers."""

LONGEST = 10_000
"""Epochs at most; training ends before, when the loss no longer falls."""


def c2st(reference, samples, seed: int = 1, folds: int = 5) -> float:
    r"""Return how often a network tells samples from reference samples, in rows it has not seen.

    .. math:: \text{accuracy} \in [0, 1], \qquad
              \tfrac12: \text{told apart no better than by a coin}

    Two layers of 10 D rectified units, trained by Adam, on ``folds`` - 1 of the folds each time,
    after both sets have been standardised by mean and standard deviation of the reference; in
    single precision, as in the benchmark. 10,000 rows take seconds for two features, and minutes
    for ten.

    Parameters
    ----------
    reference, samples : (M, D) arrays
        Rows of equal numbers.
    seed : int
        Of the network and of the folds; a seed gives the same number again.
    folds : int

    Returns
    -------
    float
        Mean accuracy over the folds.

    Raises
    ------
    ValueError
        If the sets do not fit together, a feature of the reference is constant, or there are fewer
        rows than folds.
    ImportError
        If scikit-learn is not installed: names the extra that brings it.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> a, b = rng.standard_normal((2, 200, 1))
    >>> 0.4 < c2st(a, b) < 0.6, c2st(a, b + 5) > 0.95
    (True, True)
    """
    folds, seed = integer("folds", folds, least=2), integer("seed", seed, least=0)
    a = check_rows(reference, None, np.float64, "reference")
    b = check_rows(samples, a.shape[1], np.float64, "samples")
    if len(a) != len(b) or len(a) < folds:
        raise ValueError(
            f"samples: expected as many rows as the reference has, and at least {folds}, got "
            f"{len(b)} and {len(a)}"
        )
    mean, scale = a.mean(axis=0), a.std(axis=0, ddof=1)
    if not scale.all():
        raise ValueError(f"reference: feature {int(np.argmin(scale))} is constant")
    rows = (np.concatenate([a, b]) - mean) / scale
    labels = np.repeat([0, 1], len(a))
    return _accuracy(rows.astype(np.float32), labels, seed, folds)


def _accuracy(rows: np.ndarray, labels: np.ndarray, seed: int, folds: int) -> float:
    """Cross-validate the network."""
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError(
            "c2st needs scikit-learn, which is not installed: pip install 'afnp[data]'"
        ) from error
    width = WIDTH * rows.shape[1]
    network = MLPClassifier((width, width), max_iter=LONGEST, random_state=seed)
    parts = KFold(folds, shuffle=True, random_state=seed)
    return float(cross_val_score(network, rows, labels, cv=parts, scoring="accuracy").mean())


def c2st_p_value(accuracy: float, rows: int) -> float:
    r"""Return how probable so high an accuracy would be if both sets had one distribution.

    .. math:: \Pr\big(Z \ge 2 \sqrt{2 M}\, (\text{accuracy} - \tfrac12)\big), \quad
              Z \sim \mathrm{Normal}(0, 1)

    Labels of rows that a network has not seen are guessed like coins. Folds that train for each
    other change that little, and to the safe side: the network tends to what its test fold has
    less of.

    Parameters
    ----------
    accuracy : float
    rows : int
        M, of each set.

    Examples
    --------
    >>> round(c2st_p_value(0.5, 10_000), 3), c2st_p_value(0.52, 10_000) < 1e-6
    (0.5, True)
    """
    return math.erfc(2 * (accuracy - 0.5) * math.sqrt(rows)) / 2


def best_accuracy(at_reference, at_samples) -> float:
    r"""Return the accuracy of the best classifier between p and q, from the ratios of densities.

    .. math:: \max_c \frac1{2 M} \Big(\#\{x \sim p : l(x) > c\} + \#\{x \sim q : l(x) \le c\}\Big)
              = \tfrac12 + \tfrac12 \sup_c \big(\hat F_q(c) - \hat F_p(c)\big),
              \qquad l = \log \frac{\tilde p}{q}

    The best classifier compares l with a constant (Neyman and Pearson); which one, does not have to
    be known, if the best is taken. So the total variation distance is that of Kolmogorov and
    Smirnov between the ratios. No classifier has a higher accuracy, but for chance: the standard
    error is at most :math:`1 / \sqrt{8 M}`, and taking the best adds at most about half of
    :math:`1 / \sqrt M`, where the two are equal.

    Parameters
    ----------
    at_reference, at_samples : (M,) arrays
        l in nats, up to a constant, at M rows of p and at M rows of q; infinite where one of the
        two has no density.

    Raises
    ------
    ValueError
        If the two are not of one length, or something is nan.

    Examples
    --------
    Two normals, 2 apart, the first times 1000: the best accuracy is Phi(1) = 0.841.

    >>> rng = np.random.default_rng(0)
    >>> ratio = lambda x: (x - 2) ** 2 / 2 - x**2 / 2 + np.log(1000)
    >>> a, b = rng.standard_normal((2, 10_000))
    >>> abs(best_accuracy(ratio(a), ratio(b + 2)) - 0.841) < 0.01
    True
    """
    p, q = np.asarray(at_reference, dtype=float), np.asarray(at_samples, dtype=float)
    if p.ndim != 1 or p.shape != q.shape or not len(p) or np.isnan([p, q]).any():
        raise ValueError(
            f"at_samples: expected as many numbers as at_reference, none nan, got shapes {q.shape} "
            f"and {p.shape}"
        )
    c = np.concatenate([p, q])
    below_p, below_q = (np.searchsorted(np.sort(l), c, side="right") for l in (p, q))
    return 0.5 + max(0, int(np.max(below_q - below_p))) / (2 * len(p))
