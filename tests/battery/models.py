"""A small sound model of every kind: together they have every class that a model file can name."""

from __future__ import annotations

import numpy as np
from kills import FAMILIES

import afnp
from afnp.bases import Logistic, StudentT
from afnp.flow import Flow
from afnp.networks import AddedMLP, GatedMaskedMLP
from afnp.transforms import (
    Autoregressive,
    Bounds,
    Coupling,
    Inverse,
    LinearPrediction,
    Logit,
    LULinear,
    Permutation,
    Standardize,
    masked,
)
from afnp.univariate import Affine, FlooredAffine, FreeSpline

CHAIN = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]

MODELS = {
    **FAMILIES,
    "image": lambda: afnp.made(
        4, hidden=(3,), preprocess=afnp.preprocessing(np.zeros((3, 4)), levels=17)
    ),
    "angles": lambda: afnp.nsf(4, circular=True, hidden=(3,), transforms=1),
    "heavy tails": lambda: afnp.made(4, hidden=(3,), base=StudentT(4, df=3.0)),
    "graph": lambda: afnp.maf(3, hidden=(3,), transforms=2, structure=CHAIN),
    "ensemble of flows": lambda: afnp.FlowEnsemble(
        [afnp.made(2, hidden=(3,), seed=seed) for seed in (0, 1)]
    ),
    "in and out of bounds": lambda: Flow(
        [
            Bounds([0.0, None, -1.0], [None, 2.0, 1.0]),
            Standardize([0.5, 1.0, 0.0], [1.0, 2.0, 0.5]),
            Permutation([2, 0, 1]),
            masked(3, (3,), univariate="clipped_spline", options={"bins": 3}),
            LULinear(3),
        ],
        base=Logistic(3),
    ),
    "logits": lambda: Flow(
        [
            Logit(2, 0.01),
            masked(2, (3,), univariate="clipped_affine"),
            masked(2, (3,), univariate="logistic_mixture", options={"components": 2}),
        ]
    ),
    "linear prediction": lambda: Flow([LinearPrediction(4, [0.5, -0.2], 0.7, 0.1)]),
    "circles of zuko": lambda: Flow(
        [masked(2, (3,), univariate="clipped_circle", options={"bins": 3})],
        base=afnp.bases.UniformTorus(2),
    ),
    "contexts added": lambda: Flow(
        [Autoregressive(AddedMLP(3, 2, (3, 3, 3), 2, residual=True), FlooredAffine(), [1, 2, 0])],
        context=2,
    ),
    "contexts as gates": lambda: Flow(
        [
            Inverse(Autoregressive(GatedMaskedMLP(3, 2, (3, 3, 3), 2, linear_end=True), Affine())),
            Autoregressive(GatedMaskedMLP(3, 10, (3,), 2), FreeSpline(3)),
        ],
        context=2,
    ),
    "couplings with gates": lambda: Flow(
        [Coupling(3, (3, 3, 3), context=2, gated=True, linear_end=True)], context=2
    ),
}
"""By name; those of ``kills.FAMILIES`` can be trained and killed as well."""
