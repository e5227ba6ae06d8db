r"""Two sets of samples, one distribution? A classifier is asked (C2ST).

.. math:: \text{accuracy} = \frac1{2 M} \sum_n 1[\hat y_n = y_n] \;\to\;
          \tfrac12 + \tfrac12\, \mathrm{TV}(p, q) \quad \text{for the best classifier}

Lopez-Paz and Oquab (arXiv 1610.06545); network, folds and standardisation are those of the
benchmark of simulation-based inference (arXiv 2101.04653), so that numbers can be compared with its
tables. The network needs scikit-learn, the extra ``data``; nothing else here does.

Letters: M rows of each set, D features, TV the total variation distance.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.inputs import check_rows, integer

__all__ = ["c2st", "c2st_p_value"]

WIDTH = 10
"""Hidden units for each feature, in each of two layers."""

LONGEST = 10_000
"""Epochs at most; training ends before, when the loss no longer falls."""


def c2st(reference, samples, seed: int = 1, folds: int = 5) -> float:
    r"""Return how often a network tells samples from reference samples, in rows it has not seen.

    .. math:: \text{accuracy} \in [0, 1], \qquad
              \tfrac12: \text{told apart no better than by a coin}

    Two layers of 10 D rectified units, trained by Adam, on ``folds`` - 1 of the folds each time,
    after both sets have been standardised by mean and standard deviation of the reference.

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
    rows = np.concatenate([(a - mean) / scale, (b - mean) / scale])
    labels = np.repeat([0, 1], len(a))
    return _accuracy(rows, labels, seed, folds)


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
