"""What checking costs, and what must not pass: the cases of reports, as they were reported."""

from __future__ import annotations

import time

import numpy as np
import pytest

import afnp
from afnp.transforms import Standardize
from afnp.univariate import RationalQuadratic
from afnp.verify import check_flow

DEFAULTS = {
    "made": lambda: afnp.made(8),
    "maf of two": lambda: afnp.maf(2),
    "maf": lambda: afnp.maf(8),
    "realnvp": lambda: afnp.realnvp(8),
    "nsf of two": lambda: afnp.nsf(2),
    "nsf": lambda: afnp.nsf(8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFAULTS)
def test_quick_is_quick_at_the_constructors_own_sizes(name):
    """About 3 s on an idle core, hidden (512, 512) included, which is printed; what fails is a cost
    of another order, such as that of every hidden unit looked at alone."""
    flow = DEFAULTS[name]()
    check_flow(flow, level="quick", checks=["pure"])
    start = time.process_time()
    assert check_flow(flow, level="quick").ok
    seconds = time.process_time() - start
    print(f"\n{name}: {seconds:.1f} s")
    assert seconds < 40


def doubled(temperature=1.0, constant=0.0):
    """Three features, x = 2 u, as plain functions."""
    rest = -3 * np.log(2) - 1.5 * np.log(2 * np.pi) + constant
    return {
        "normalize": lambda x: (x / 2, np.full(len(x), -3 * np.log(2))),
        "generate": lambda u: (2 * u, np.full(len(u), 3 * np.log(2))),
        "log_prob": lambda x: -np.square(x / 2).sum(axis=1) / 2 + rest,
        "sample": lambda n, rng: 2 * temperature * rng.standard_normal((n, 3)),
        "features": 3,
    }


def spline(off=0.0):
    """A spline whose log-determinant is off beyond its bound alone."""
    tau, h = RationalQuadratic(8, 3.0), np.random.default_rng(0).standard_normal(23)

    def params(x):
        return np.broadcast_to(h, (*x.shape, 23))

    def normalize(x):
        u, log_slope, _ = tau.normalize(params(x), x)
        return u, (log_slope + off * (np.abs(x) > 3)).sum(axis=1)

    def generate(u):
        x, log_slope = tau.generate(params(u), u)
        return x, (log_slope - off * (np.abs(u) > 3)).sum(axis=1)

    return {"normalize": normalize, "generate": generate, "features": 2}


def without(functions, *names):
    return {name: f for name, f in functions.items() if name not in names}


FORGOTTEN = doubled(constant=3 * np.log(2) + 1.5 * np.log(2 * np.pi))
WRONG = {
    "a constant forgotten": (FORGOTTEN, "identities"),
    "a constant forgotten, density and generate alone": (
        without(FORGOTTEN, "normalize", "sample"),
        "normalisation",
    ),
    "a constant forgotten, density and normalize alone": (
        without(FORGOTTEN, "generate", "sample"),
        "identities",
    ),
    "a temperature of 1.05": (doubled(1.05), "noise"),
    "a temperature of 1.03": (doubled(1.03), "noise"),
    "a spline that is off in its tails": (spline(0.05), "log_det"),
}


@pytest.mark.parametrize("name", WRONG)
def test_reported_survivors_are_killed_at_full(name):
    functions, check = WRONG[name]
    assert check in check_flow(**functions, level="full").failed


def test_without_their_defects_they_pass():
    assert check_flow(**doubled(), level="full").ok
    assert check_flow(**spline(), level="full").ok


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([5.4e6, 0, 5.4e6], [100, 1, 100]),
        ([2.46e6] * 3, [30] * 3),
        ([1.7e9] * 3, [1e5] * 3),
        ([0] * 3, [1e-6] * 3),
    ],
)
def test_units_raise_no_alarm(mean, std):
    flow = afnp.nsf(3, hidden=(8,), transforms=2, preprocess=[Standardize(mean, std)])
    assert check_flow(flow, level="full").ok
