"""Training: the textbook's steps, and a run that can be interrupted,
killed and resumed to the last bit."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import afnp
from afnp import fit, progress
from afnp.chain_rule import GaussianChain
from afnp.constructors import BETWEEN
from afnp.files import ModelFileError, write
from afnp.messages import for_bars, say
from afnp.model import BatchGradient
from afnp.train import Adam
from afnp.transforms import Standardize
from afnp.transforms.bounds import Bounds

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


def banana(n=120, seed=0):
    """Rows (n, 2): x_1 = x_0² / 2 + noise."""
    z = np.random.default_rng(seed).standard_normal((n, 2))
    return np.stack([z[:, 0], z[:, 0] ** 2 / 2 + 0.3 * z[:, 1]], axis=1)


def small(**options):
    return afnp.maf(2, hidden=(8,), transforms=2, **options)


def textbook(theta, gradients, rate, decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """Adam as its paper has it, one line a formula; rate is a function of the step from 0."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        g = gradient(theta)
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        theta = theta - rate(t - 1) * (m_hat / (np.sqrt(v_hat) + epsilon) + decay * theta)
    return theta


@pytest.fixture
def steps(monkeypatch):
    """Record every step's parameters before and after it, its gradient and its rate."""
    seen, step = [], Adam.step

    def recording(self, theta, g, rate, weight_decay=0.0, scale=1.0):
        before = theta.copy()
        step(self, theta, g, rate, weight_decay, scale)
        seen.append({"before": before, "after": theta.copy(), "g": scale * g, "rate": rate})

    monkeypatch.setattr(Adam, "step", recording)
    return seen


@pytest.fixture
def at_step(monkeypatch):
    """Call something after step t of Adam, once."""

    def arrange(t, action):
        step = Adam.step

        def acting(self, *args, **kwargs):
            step(self, *args, **kwargs)
            if self.t == t:
                monkeypatch.setattr(Adam, "step", step)
                action()

        monkeypatch.setattr(Adam, "step", acting)

    return arrange


@pytest.fixture(autouse=True)
def usual_handler():
    """The handlers that Python installs, even where the tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def compiled(monkeypatch):
    """Small runs in compiled code too, with several blocks of rows."""
    pytest.importorskip("numba", reason="NOT TESTED: pip install numba")
    monkeypatch.setattr("afnp.model.COMPILED_FROM", 0)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def fit_or_interrupt(flow, *data, **options):
    """The history, or None if fit raised because no epoch had ended."""
    try:
        return fit(flow, *data, **options)
    except KeyboardInterrupt as error:
        assert str(error).startswith("interrupted before the first epoch ended; no result")
        return None


def losses(history):
    return history.train_loss, history.val_loss, history.learning_rate, history.best_epoch


# ---- Adam ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    "options", [{}, {"beta1": 0.5, "beta2": 0.9, "epsilon": 0.1}], ids=["defaults", "others"]
)
def test_adam_is_the_textbook(options, decay):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((6, 6))
    theta, adam = rng.standard_normal(6), Adam(6, np.float64, **options)
    expected = textbook(
        theta, [lambda x: A.T @ A @ x] * 200, lambda t: 0.1 / (1 + t), decay, **options
    )
    for t in range(200):
        adam.step(theta, A.T @ A @ theta, 0.1 / (1 + t), decay)
    np.testing.assert_allclose(
        theta, expected, rtol=1e-10, atol=1e-12
    )  # 200 steps of a few roundings each


def test_adam_moves_by_the_rate_at_first():
    """Step 1 is -rate · sign(g), whatever the size of g: the bias correction at work."""
    theta = np.zeros(4)
    Adam(4, np.float64).step(theta, np.array([1e-3, -1.0, 1e5, 0.0]), rate=0.25)
    np.testing.assert_allclose(theta, [-0.25, 0.25, -0.25, 0.0], rtol=1e-4)


def test_adam_in_float32_stays_there():
    adam = Adam(3, np.float32)
    theta = np.ones(3, np.float32)
    adam.step(theta, np.full(3, 1e-3, np.float32), 0.1, 0.1)
    assert adam.m.dtype == adam.v.dtype == adam.scratch.dtype == theta.dtype == np.float32
    np.testing.assert_allclose(theta, 1 - 0.1 - 0.01, rtol=1e-5)


# ---- fit, step by step ---------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_fit_is_the_textbook(schedule):
    """Permuted rows, cut in batches; the mean gradient of each; Adam: written out again,
    from the public face."""
    x, flow, other = banana(50), small(), small()
    options = dict(
        epochs=3,
        batch_size=20,
        learning_rate=0.02,
        weight_decay=0.1,
        clip=math.inf,
        schedule=schedule,
    )
    history = fit(flow, x, seed=4, progress=False, **options)
    rng, seen = np.random.default_rng(4), []

    def gradient(rows):
        def of(theta):
            other.theta = theta
            loss, grad = other.loss_and_grad(x[rows])
            seen.append(loss * len(rows))
            return grad

        return of

    orders = [rng.permutation(50) for _ in range(3)]
    gradients = [gradient(order[k : k + 20]) for order in orders for k in (0, 20, 40)]
    rate = (
        (lambda t: 0.01 * (1 + math.cos(math.pi * t / 9)))
        if schedule == "cosine"
        else (lambda t: 0.02)
    )
    expected = textbook(small().theta, gradients, rate, decay=0.1)
    np.testing.assert_allclose(
        flow.theta, expected, rtol=1e-7, atol=1e-10
    )  # 1/√v multiplies roundings of small g
    np.testing.assert_allclose(
        history.train_loss, np.reshape(seen, (3, 3)).sum(axis=1) / 50, rtol=1e-9
    )
    np.testing.assert_allclose(history.learning_rate, [rate(3), rate(6), rate(9)], atol=1e-18)
    assert history.stopped == "epochs" and history.best_epoch is None and history.seconds > 0


def test_rates(steps):
    fit(small(), banana(50), epochs=4, batch_size=20, learning_rate=0.5, progress=False)
    rates = [step["rate"] for step in steps]
    assert rates[0] == 0.5 and rates[6] == pytest.approx(0.25) and 0 < rates[-1] < 0.01
    np.testing.assert_allclose(rates, 0.25 * (1 + np.cos(np.pi * np.arange(12) / 12)), atol=1e-15)
    steps.clear()
    fit(
        small(),
        banana(50),
        epochs=4,
        batch_size=20,
        learning_rate=0.5,
        schedule="constant",
        progress=False,
    )
    assert {step["rate"] for step in steps} == {0.5}


@pytest.mark.filterwarnings("ignore::afnp.advice.DataWarning")
@pytest.mark.parametrize("part", [0.01, 0.9])
def test_clip_shortens_and_does_not_turn(steps, part):
    x, flow = 100 * banana(40), small()
    _, g = flow.loss_and_grad(x[np.random.default_rng(0).permutation(40)])
    clip = part * np.linalg.norm(g)
    fit(flow, x, epochs=1, batch_size=40, clip=clip, progress=False)
    np.testing.assert_allclose(steps[0]["g"], part * g, rtol=1e-10, atol=1e-16)


def test_clip_leaves_short_gradients_alone():
    x, runs = banana(), []
    for clip in (1e6, math.inf):
        runs.append(small())
        fit(runs[-1], x, epochs=2, clip=clip, progress=False)
    assert np.array_equal(runs[0].theta, runs[1].theta)


def test_weight_decay_pulls_to_zero():
    norms = []
    for decay in (0.0, 1.0, 10.0):
        flow = small()
        fit(flow, banana(), epochs=20, weight_decay=decay, learning_rate=0.01, progress=False)
        norms.append(np.linalg.norm(flow.theta))
    assert norms[0] > norms[1] > norms[2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_loss_decreases(dtype):
    flow, x = small(dtype=dtype), banana(400)
    history = fit(flow, x, epochs=40, learning_rate=0.01, progress=False)
    assert history.train_loss[-1] < history.train_loss[0] - 0.5
    assert flow.theta.dtype == dtype and all(type(loss) is float for loss in history.train_loss)


def test_float32_follows_float64():
    """The same run in both precisions: 60 steps of relative rounding 1e-7,
    amplified by Adam's 1/√v at most."""
    x, runs = banana(), []
    for dtype in (np.float32, np.float64):
        flow = small()
        flow32 = afnp.maf(2, hidden=(8,), transforms=2, dtype=dtype)
        flow32.theta = flow.theta
        runs.append(fit(flow32, x, epochs=30, batch_size=60, progress=False).train_loss)
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-4)


def test_deterministic_by_seed():
    runs = []
    for seed in (3, 3, 4):
        flow = small()
        history = fit(
            flow, banana(), banana(seed=1), epochs=4, batch_size=32, seed=seed, progress=False
        )
        runs.append((flow.theta.tobytes(), *losses(history)))
    assert runs[0] == runs[1] != runs[2]


def test_data_are_not_touched():
    x, v = banana(), banana(seed=1)
    x.setflags(write=False)
    v.setflags(write=False)
    fit(small(), x, v, epochs=2, progress=False)


def test_batches_larger_than_the_data(steps):
    fit(small(), banana(7), epochs=2, batch_size=1000, progress=False)
    assert len(steps) == 2


def test_progress_bar(capsys):
    fit(small(), banana(), banana(seed=1), epochs=2)
    err = capsys.readouterr().err
    assert "2/2" in err and "train " in err and "val " in err
    fit(small(), banana(), epochs=2, progress=False)
    assert capsys.readouterr() == ("", "")


# ---- validation ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overfitted():
    """20 rows, learnt by heart: validation is best long before the end."""
    flow, v = afnp.maf(2, hidden=(32,), transforms=2), banana(200, 1)
    seen = []

    class Spy(type(flow)):
        def log_prob(self, *arguments):
            seen.append(self.theta.copy())
            return super().log_prob(*arguments)

    flow.__class__ = Spy
    history = fit(
        flow, banana(20), v, epochs=80, learning_rate=0.03, schedule="constant", progress=False
    )
    return flow, history, seen, v


def test_the_best_parameters_are_kept(overfitted):
    flow, history, seen, v = overfitted
    best = history.best_epoch
    assert best == int(np.argmin(history.val_loss)) < 79 and len(history.val_loss) == 80
    assert np.array_equal(flow.theta, seen[best])
    # "auto" may take another engine now that its code is loaded: the same to rounding
    assert -flow.log_prob(v).mean() == pytest.approx(history.val_loss[best], rel=1e-12)
    assert history.val_loss[-1] > history.val_loss[best] + 0.1


@pytest.mark.parametrize("patience", [1, 5, 12])
def test_patience(overfitted, patience):
    """The run is the same, cut where the best epoch is ``patience`` behind."""
    _, full, seen, v = overfitted
    flow = afnp.maf(2, hidden=(32,), transforms=2)
    history = fit(
        flow,
        banana(20),
        v,
        epochs=80,
        learning_rate=0.03,
        schedule="constant",
        patience=patience,
        progress=False,
    )
    n = len(history.val_loss)
    assert history.stopped == "patience" and n < 80
    assert history.val_loss == full.val_loss[:n] and n - 1 - history.best_epoch == patience
    assert not any(k - int(np.argmin(full.val_loss[: k + 1])) >= patience for k in range(n - 1))
    assert np.array_equal(flow.theta, seen[history.best_epoch])


def test_of_equals_the_first_is_best():
    history = fit(
        small(),
        banana(),
        banana(seed=1),
        epochs=9,
        learning_rate=1e-300,
        patience=3,
        progress=False,
    )
    assert (
        len(set(history.val_loss)) == 1 and history.best_epoch == 0 and len(history.val_loss) == 4
    )


OUTSIDE = {
    "levels": (
        dict(levels=4),
        r"feature 0 \('age'\): expected a value inside \(-4.00001e-06, 4\), got 9",
    ),
    "bounds": (dict(bounds={0: (None, 5)}), r"'age'\): expected a value inside \(-inf, 5\), got 9"),
    "scaled bounds": (None, r"'age'\): expected a value inside \(-10, 7\), got 9"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_rows_outside_the_bounds_are_told_before_training(name):
    """By their numbers, and in their units; rows that weigh nothing may lie anywhere."""
    options, message = OUTSIDE[name]
    x = np.random.default_rng(0).uniform(0, 4, (60, 2))
    layers = [Standardize([2.0, 0.0], [5.0, 1.0]), Bounds([-2.4, None], [1.0, None])]
    if options is not None:
        layers = afnp.preprocessing(x, **options)
    bad, w = x.copy(), np.arange(60) % 2
    bad[3, 0] = 9.0
    if options is not None:
        afnp.preprocessing(bad, weights=1 - w, **options)
        with pytest.raises(ValueError, match="row 3, feature 0: expected "):
            afnp.preprocessing(bad, weights=w, **options)

    def flow():
        made = small(preprocess=layers)
        made.columns = ["age", "mass"]
        return made

    seen: list = []
    run = dict(epochs=2, progress=False, callbacks=[seen.append])
    for given in ({}, {"weights": w}):
        with pytest.raises(ValueError, match=f"^x_train: row 3, .*{message}"):
            fit(flow(), bad, x, **given, **run)
    with pytest.raises(ValueError, match=f"^x_val: row 3, .*{message}"):
        fit(flow(), x, bad, **run)
    assert not seen
    fit(flow(), bad, bad, weights=1 - w, weights_val=1 - w, **run)
    assert len(seen) == 2


def test_validation_that_is_not_a_number():
    flow = small()
    before = flow.theta.copy()
    with pytest.raises(FloatingPointError, match="epoch 0.*x_val"):
        fit(
            flow,
            banana(),
            banana(seed=1),
            epochs=3,
            batch_size=200,
            learning_rate=1e200,
            progress=False,
        )
    assert np.array_equal(flow.theta, before)


# ---- context -------------------------------------------------------------------------------------


def test_context_is_learnt():
    """x given c is N(2c, 1/2²): the loss comes down to that entropy,
    which without c would be 0.9 nats higher."""
    rng = np.random.default_rng(0)
    c = rng.standard_normal((1000, 1))
    x = 2 * c + 0.5 * rng.standard_normal((1000, 1))
    flow = afnp.made(1, hidden=(8,), context=1)
    history = fit(
        flow,
        x[:800],
        x[800:],
        context=c[:800],
        context_val=c[800:],
        epochs=60,
        learning_rate=0.02,
        progress=False,
    )
    truth = ((x[800:] - 2 * c[800:]) ** 2 / (2 * 0.25)).mean() + 0.5 * math.log(2 * math.pi * 0.25)
    assert (
        abs(history.val_loss[history.best_epoch] - truth) < 0.02
    )  # some 30 parameters, 800 rows: 30 / 1600


def test_one_context_for_all_rows():
    """A (1, C) context is that row for everybody."""
    thetas = []
    for rows in (1, 120):
        flow = small(context=3)
        c = np.broadcast_to([1.0, -2.0, 0.5], (rows, 3))
        fit(flow, banana(), banana(seed=1), context=c, context_val=c, epochs=2, progress=False)
        thetas.append(flow.theta)
    assert np.array_equal(*thetas)


@pytest.mark.parametrize(
    "contexts, message",
    [
        ({}, "context: expected 2 columns, got none"),
        ({"context": np.zeros((119, 2))}, "context: expected 120 rows"),
        ({"context": np.zeros((120, 3))}, "context: expected 2 columns, got 3"),
        ({"context": np.zeros((120, 2))}, "context_val: expected 2 columns, got none"),
    ],
)
def test_contexts_that_do_not_fit(contexts, message):
    with pytest.raises(ValueError, match=message):
        fit(small(context=2), banana(), banana(seed=1), epochs=1, progress=False, **contexts)


# ---- weights -------------------------------------------------------------------------------------

HEAVY = afnp.bases.StudentT(2, 5.0)
"""With normal noise the last ActNorm starts where its gradient is nothing but rounding."""
WEIGHED = {
    "maf": lambda: (small(), banana()),
    "maf with a context": lambda: (small(context=1), banana()),
    "in its units": lambda: (small(context=1, preprocess="standard"), banana() * [9, 1e3]),
    "nsf": lambda: (afnp.nsf(2, hidden=(8,), transforms=2), banana()),
    "realnvp": lambda: (afnp.realnvp(2, hidden=(8,), transforms=2), banana()),
    "tarflow": lambda: (afnp.tarflow(2, width=4, heads=1, blocks=1, transforms=2), banana()),
    "discrete": lambda: (
        afnp.DiscreteMADE(2, levels=3, hidden=(8,)),
        np.random.default_rng(0).integers(3, size=(120, 2)),
    ),
    **{
        f"{make.__name__}, {between}": lambda make=make, between=between: (
            make(2, (8,), transforms=2, between=between, base=HEAVY),
            banana(),
        )
        for make in (afnp.maf, afnp.iaf, afnp.nsf, afnp.realnvp, afnp.nice, afnp.maf_mog)
        for between in BETWEEN
    },
}


def weighed(name, rows, weights, rows_val, weights_val, **options):
    """Train in full batches on some of 120 rows."""
    model, x = WEIGHED[name]()
    c = np.linspace(-1, 1, 120)[:, None] if model.context else None
    take = lambda of, rows: None if of is None else of[rows]  # noqa: E731
    history = fit(
        model,
        x[rows],
        x[rows_val],
        context=take(c, rows),
        context_val=take(c, rows_val),
        weights=weights,
        weights_val=weights_val,
        **{**dict(epochs=8, batch_size=10**6, learning_rate=0.01, progress=False), **options},
    )
    return model.theta, history


@pytest.mark.filterwarnings("ignore:.*repeat another one exactly")
@pytest.mark.parametrize("clip", [math.inf, 0.1])
@pytest.mark.parametrize("name", WEIGHED)
def test_whole_weights_are_repeated_rows(name, clip):
    """To rounding: sums have another order, and Adam divides by the root of small squares."""
    rng = np.random.default_rng(0)
    w, w_val = rng.integers(0, 4, 120), rng.integers(0, 3, 120)
    every = np.arange(120)
    theta, history = weighed(name, every, 2.5 * w, every, 1e300 * w_val, clip=clip)
    repeated, expected = weighed(
        name, np.repeat(every, w), None, np.repeat(every, w_val), None, clip=clip
    )
    np.testing.assert_allclose(theta, repeated, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(history.train_loss, expected.train_loss, rtol=1e-9)
    np.testing.assert_allclose(history.val_loss, expected.val_loss, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:.*repeat another one exactly")
def test_whole_weights_are_repeated_rows_in_compiled_code(compiled):
    every, w = np.arange(120), np.random.default_rng(0).integers(0, 4, 120)
    theta, history = weighed("maf", every, w, every, w)
    repeated, expected = weighed("maf", np.repeat(every, w), None, np.repeat(every, w), None)
    np.testing.assert_allclose(theta, repeated, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(history.train_loss, expected.train_loss, rtol=1e-10)


@pytest.mark.parametrize("batch_size", [7, 30, 1000])
@pytest.mark.parametrize("name", WEIGHED)
def test_rows_of_weight_zero_change_nothing(name, batch_size):
    """Not a bit, in batches of any size."""
    rng = np.random.default_rng(1)
    w = rng.uniform(0.1, 3, 120) * (rng.random(120) < 0.6)
    left, every = np.flatnonzero(w), np.arange(120)
    theta, history = weighed(name, every, w, every, w, batch_size=batch_size)
    without, expected = weighed(name, left, w[left], left, w[left], batch_size=batch_size)
    assert np.array_equal(theta, without) and losses(history) == losses(expected)


@pytest.mark.filterwarnings("ignore:.*repeat another one exactly")
@pytest.mark.parametrize("between", ["actnorm", "batchnorm"])
def test_layers_start_from_all_rows_by_their_weights(between):
    """However many there are, and in whatever order copies stand."""
    x, w = banana(2500), np.random.default_rng(0).integers(0, 3, 2500)
    run = dict(epochs=1, batch_size=10**6, learning_rate=1e-9, weight_decay=0, progress=False)
    weighted, repeated = (small(between=between) for _ in range(2))
    fit(weighted, x, weights=w, **run)
    fit(repeated, np.concatenate([x[w > 0], x[w > 1]]), **run)
    np.testing.assert_allclose(weighted.theta, repeated.theta, rtol=1e-6, atol=1e-8)
    y, p = weighted.layers[0].normalize(weighted.own[0], x, np.empty((2500, 0)))[0], weighted.own[1]
    mean = np.average(y, axis=0, weights=w)
    name = "m" if between == "actnorm" else "mean"
    np.testing.assert_allclose(p[name], mean, atol=1e-6)


@pytest.mark.parametrize("x", [5, None, "abc", [[1.0, 2.0], [3.0]], [1.0, 2.0]])
def test_weights_of_what_is_no_table_blame_the_table(x):
    with pytest.raises(ValueError, match="^x_train: "):
        afnp.fit(afnp.maf(2, hidden=(4,), transforms=1), x, weights=[1.0], progress=False)


@pytest.mark.parametrize("name", WEIGHED)
def test_equal_weights_are_none(name):
    every = np.arange(120)
    theta, history = weighed(name, every, np.full(120, 7), every, np.ones(120, bool), batch_size=50)
    without, expected = weighed(name, every, None, every, None, batch_size=50)
    assert np.array_equal(theta, without) and losses(history) == losses(expected)


def test_rows_are_named_by_their_own_numbers(steps):
    """Row 41 is row 41, also where rows before it weigh nothing."""
    x = banana()
    x[41] = 1e25
    w = np.arange(120) % 2
    with pytest.raises(FloatingPointError, match=r"training rows \[41\]"):
        fit(small(dtype=np.float32), x, weights=w, epochs=2, batch_size=10, progress=False)
    fit(small(dtype=np.float32), x, weights=1 - w, epochs=2, progress=False)
    with pytest.raises(FloatingPointError, match="row 41 of x_val"):
        fit(small(dtype=np.float32), banana(), x, weights_val=w, epochs=2, progress=False)


def test_weights_are_part_of_the_recipe(tmp_path):
    w = np.random.default_rng(0).random(120)
    run = dict(epochs=2, progress=False, checkpoint=tmp_path / "c")
    flows = [small(), small()]
    fit(flows[0], banana(), weights=w, **run)
    fit(flows[1], banana(), weights=w, resume=True, **run)
    assert np.array_equal(flows[0].theta, flows[1].theta)
    for other in (None, w[::-1]):
        with pytest.raises(ValueError, match="data differs"):
            fit(small(), banana(), weights=other, resume=True, **run)


@pytest.mark.filterwarnings("ignore::afnp.advice.DataWarning")
def test_a_weighted_gaussian_is_fitted_to_its_weights():
    """Half of the rows weigh nine times as much: the mean moves to them."""
    x = np.concatenate([np.full(50, -1.0), np.full(50, 1.0)])[:, None]
    x = x + 0.1 * np.random.default_rng(0).standard_normal((100, 1))
    flow = afnp.made(1, hidden=())
    fit(
        flow,
        x,
        weights=np.repeat([1, 9], 50),
        epochs=1500,
        batch_size=100,
        learning_rate=0.02,
        weight_decay=0,
        progress=False,
    )
    assert abs(flow.sample(20_000, rng=0).mean() - 0.8) < 0.03


# ---- known answers -------------------------------------------------------------------------------


def test_a_gaussian_is_fitted_to_its_entropy():
    """KL(true || fitted) is about P / 2N = 200 / 8000 nats at the optimum of P parameters,
    and less before it."""
    covariance = np.array([[4.0, 1.5], [1.5, 1.0]])
    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([3.0, -1.0], covariance, 6000)
    flow = small(preprocess=afnp.preprocessing(x[:4000]))
    fit(flow, x[:4000], x[4000:5000], epochs=30, learning_rate=0.005, progress=False)
    entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * covariance)[1]
    truth = -GaussianChain([3.0, -1.0], covariance).log_prob(x[5000:]).mean()
    loss = -flow.log_prob(x[5000:]).mean()
    assert abs(loss - truth) < 0.02
    assert abs(loss - entropy) < 0.02 + 3 / math.sqrt(
        1000
    )  # log p(x) has variance D/2 = 1: 3 standard errors


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_a_linear_made_is_the_gaussian_chain(order):
    r"""Linear regressions by gradient descent end where Cholesky is.

    The linear MADE also has log-scales linear in x, which Gaussian rows use to overfit a little. On
    rows m + L z with z and its images under all sign flips, they cannot: Σ (1 - u_i²) x_j = 0. The
    optimum is then the chain itself. Error of the loss: quadratic in that of the parameters; 1e-4
    in u gives 1e-8.
    """
    rng = np.random.default_rng(0)
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 1, 3)
    z = (signs * rng.standard_normal((25, 3))).reshape(-1, 3)
    L = np.array([[1.5, 0, 0], [0.7, 0.8, 0], [-0.4, 0.5, 1.2]])
    x = np.empty_like(z)
    x[:, order] = [1.0, -0.5, 0.3] + z @ L.T
    flow = afnp.made(3, hidden=(), order=order)
    history = fit(
        flow,
        x,
        epochs=3000,
        batch_size=len(x),
        learning_rate=0.03,
        weight_decay=0,
        clip=math.inf,
        progress=False,
    )
    chain = GaussianChain(x.mean(axis=0), np.cov(x, rowvar=False, bias=True), order=order)
    (u, log_det), (u_chain, log_det_chain) = flow.normalize(x), chain.normalize(x)
    np.testing.assert_allclose(u, u_chain, atol=1e-4)
    np.testing.assert_allclose(log_det, log_det_chain, atol=1e-4)
    assert history.train_loss[-1] == pytest.approx(-chain.log_prob(x).mean(), abs=1e-7)


# ---- what is not finite --------------------------------------------------------------------------


def test_a_bad_row_is_named(steps):
    """Row 41's square overflows in float32: epoch, step and row are named,
    earlier parameters are kept."""
    x = banana()
    x[41] = 1e25
    flow = small(dtype=np.float32)
    step = list(np.random.default_rng(0).permutation(120)).index(41) // 10
    assert step > 0
    with pytest.raises(
        FloatingPointError, match=rf"not finite at epoch 0, step {step}: training rows \[41\]"
    ):
        fit(flow, x, epochs=2, batch_size=10, progress=False)
    assert len(steps) == step
    assert np.array_equal(
        flow.theta, steps[-1]["before"]
    )  # the last whose loss was seen to be finite
    assert np.isfinite(flow.log_prob(banana())).all()


def test_a_bad_row_is_named_in_compiled_code(steps, compiled):
    x = banana(300)
    x[141] = 1e25
    flow = small(dtype=np.float32)
    before = flow.theta.copy()
    with pytest.raises(
        FloatingPointError, match=r"not finite at epoch 0, step 0: training rows \[141\]"
    ):
        fit(flow, x, epochs=2, batch_size=300, progress=False)
    assert not steps and np.array_equal(flow.theta, before)


@pytest.fixture
def spoiled(monkeypatch):
    """Spoil the result of the k-th gradient of flows, counted from 1;
    give each call's parameters."""

    def arrange(k, spoil):
        gradient, calls = BatchGradient.__call__, []

        def acting(self, *args):
            calls.append(self.model.theta.copy())
            log_prob, grad, norm = gradient(self, *args)
            if len(calls) == k:
                log_prob, norm = spoil(log_prob, norm)
            return log_prob, grad, norm

        monkeypatch.setattr(BatchGradient, "__call__", acting)
        return calls

    return arrange


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_gradient_is_named(spoiled, value):
    flow, calls = small(), spoiled(8, lambda log_prob, square: (log_prob, value))
    with pytest.raises(
        FloatingPointError, match=r"not finite at epoch 1, step 3: its gradient, rows \[\d+, "
    ):
        fit(flow, banana(), epochs=3, batch_size=30, progress=False)
    assert np.array_equal(flow.theta, calls[6])


def test_a_bad_row_after_validation_keeps_the_best(spoiled):
    """With validation, the best epoch's parameters are the ones that stay."""
    flow, calls = small(), spoiled(8, lambda log_prob, square: (log_prob * np.nan, square))
    with pytest.raises(FloatingPointError, match="epoch 1, step 3"):
        fit(flow, banana(), banana(seed=1), epochs=3, batch_size=30, progress=False)
    assert np.array_equal(flow.theta, calls[4])  # after the 4 steps of epoch 0


def test_a_bad_first_step_after_resuming_keeps_the_checkpoint(tmp_path, at_step, spoiled):
    run = dict(epochs=3, batch_size=30, progress=False, checkpoint=tmp_path / "c")
    at_step(6, ctrl_c)
    flow, again = small(), small()
    fit(flow, banana(), **run)
    spoiled(1, lambda log_prob, square: (log_prob, np.nan))
    with pytest.raises(FloatingPointError, match="epoch 1, step 2"):
        fit(again, banana(), resume=True, **run)
    assert np.array_equal(again.theta, flow.theta)


# ---- Ctrl-C --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signalled", [ctrl_c, pytest.param(terminate, marks=posix)])
@pytest.mark.parametrize("t", [4, 5, 9, 11])
def test_ctrl_c_stops_after_the_step_under_way(steps, at_step, t, signalled):
    """Four steps an epoch, three epochs: theta is what t steps make,
    and only whole epochs are in the history."""
    flow = small()
    at_step(t, signalled)
    history = fit(flow, banana(), epochs=3, batch_size=30, progress=False)
    assert history.stopped == "interrupted" and len(history.train_loss) == t // 4
    assert len(steps) == t and np.array_equal(flow.theta, steps[-1]["after"])
    full = small()
    fit(full, banana(), epochs=3, batch_size=30, progress=False)
    assert np.array_equal(steps[t + t - 1]["after"], flow.theta)


@pytest.mark.parametrize("signalled", [ctrl_c, pytest.param(terminate, marks=posix)])
@pytest.mark.parametrize("t", [1, 3])
@pytest.mark.parametrize("validation", [False, True])
def test_before_the_first_epoch_ends_there_is_no_result(
    tmp_path, steps, at_step, t, signalled, validation
):
    """A script that saves what fit leaves behind ends here; the checkpoint can be resumed."""
    flow = small()
    data = [banana(), banana(seed=1)][: 1 + validation]
    run = dict(epochs=3, batch_size=30, progress=False, checkpoint=tmp_path / "c")
    at_step(t, signalled)
    with pytest.raises(KeyboardInterrupt, match=r"no result; .*c can be resumed"):
        fit(flow, *data, **run)
        afnp.save(flow, tmp_path / "m")
    assert os.listdir(tmp_path) == ["c"] and len(steps) == t
    full = small()
    fit(full, *data, **{**run, "checkpoint": None})
    fit(flow, *data, resume=True, **run)
    assert np.array_equal(flow.theta, full.theta)


@posix
def test_a_second_sigterm_terminates():
    """The first ends training, the second the process."""
    script = "import os, signal, numpy as np, afnp; from afnp.train import Adam; step = Adam.step\n"
    script += "def twice(*a): [os.kill(os.getpid(), signal.SIGTERM) for _ in '12']\n"
    script += "Adam.step = twice; afnp.fit(afnp.made(1), np.ones((9, 1)), progress=False)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGTERM


def test_ctrl_c_in_the_very_last_step_is_too_late(at_step):
    at_step(12, ctrl_c)
    assert fit(small(), banana(), epochs=3, batch_size=30, progress=False).stopped == "epochs"


def test_ctrl_c_keeps_the_best_epoch_where_there_is_one(steps, at_step):
    flow = small()
    at_step(10, ctrl_c)
    history = fit(flow, banana(), banana(seed=1), epochs=3, batch_size=30, progress=False)
    assert history.stopped == "interrupted"
    assert np.array_equal(flow.theta, steps[4 * history.best_epoch + 3]["after"])


def test_ctrl_c_at_any_time():
    timer = threading.Timer(0.2, ctrl_c)
    timer.start()
    history = fit(small(), banana(), epochs=10**6, progress=False)
    timer.join()
    assert history.stopped == "interrupted" and len(history.train_loss) > 0


def test_a_second_ctrl_c_interrupts_at_once(at_step, steps):
    def twice():
        ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ctrl_c()

    at_step(3, twice)
    with pytest.raises(KeyboardInterrupt):
        fit(small(), banana(), epochs=3, batch_size=30, progress=False)
    assert len(steps) == 3


@pytest.mark.filterwarnings("ignore::afnp.advice.DataWarning")
def test_the_handler_of_others_is_put_back(at_step):
    def mine(number, frame):
        raise AssertionError("only a second Ctrl-C is mine")

    signal.signal(signal.SIGINT, mine)
    try:
        fit(small(), banana(), epochs=1, progress=False)
        assert signal.getsignal(signal.SIGINT) is mine
        at_step(2, ctrl_c)
        fit(small(), banana(), epochs=3, progress=False)
        assert signal.getsignal(signal.SIGINT) is mine
        with pytest.raises(FloatingPointError):
            fit(small(dtype=np.float32), np.full((9, 2), 1e30), epochs=1, progress=False)
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_fit_in_another_thread():
    """Python delivers signals to the main thread alone; elsewhere fit just fits,
    with the same numbers."""
    flow, other, results = small(), small(), []
    thread = threading.Thread(
        target=lambda: results.append(fit(flow, banana(), epochs=2, progress=False))
    )
    thread.start()
    thread.join()
    fit(other, banana(), epochs=2, progress=False)
    assert results[0].stopped == "epochs" and np.array_equal(flow.theta, other.theta)


# ---- checkpoints ---------------------------------------------------------------------------------

RUN = dict(epochs=4, batch_size=30, learning_rate=0.01, patience=3, seed=5, progress=False)


def whole_run(**options):
    flow = small(**options)
    return flow, fit(flow, banana(), banana(seed=1), **RUN)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "interruptions", [[1], [3], [4], [6], [8], [15], [1, 2, 3], [2, 7, 8, 13], [16]]
)
def test_an_interrupted_run_resumes_to_the_last_bit(tmp_path, at_step, interruptions, dtype):
    """Within an epoch, at its end, several times: parameters, losses,
    rates and the best epoch are the same."""
    expected, whole = whole_run(dtype=dtype)
    stopped = []
    for t in (*interruptions, None):
        flow = small(
            dtype=dtype, seed=len(stopped)
        )  # other initial parameters: all must come from the checkpoint
        if not stopped:
            flow = small(dtype=dtype)
        if t is not None:
            at_step(t, ctrl_c)
        history = fit_or_interrupt(
            flow, banana(), banana(seed=1), checkpoint=tmp_path / "c", resume=True, **RUN
        )
        stopped.append(history.stopped if history else "interrupted")
    assert stopped[:-1] == ["interrupted" if t < 16 else "epochs" for t in interruptions]
    assert stopped[-1] == whole.stopped == "epochs"
    assert flow.theta.tobytes() == expected.theta.tobytes()
    assert losses(history) == losses(whole)


def test_a_compiled_run_resumes_to_the_last_bit(tmp_path, at_step, compiled):
    run = dict(epochs=3, batch_size=200, progress=False)
    flows = [small() for _ in range(3)]
    whole = fit(flows[0], banana(500), banana(200, 1), **run)
    at_step(5, ctrl_c)
    assert (
        fit(flows[1], banana(500), banana(200, 1), checkpoint=tmp_path / "c", **run).stopped
        == "interrupted"
    )
    history = fit(
        flows[2], banana(500), banana(200, 1), checkpoint=tmp_path / "c", resume=True, **run
    )
    assert np.array_equal(flows[0].theta, flows[2].theta) and losses(history) == losses(whole)


def test_checkpoints_do_not_change_the_run(tmp_path):
    expected, whole = whole_run()
    flow = small()
    history = fit(flow, banana(), banana(seed=1), checkpoint=tmp_path / "c", **RUN)
    assert np.array_equal(flow.theta, expected.theta) and losses(history) == losses(whole)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_resuming_a_finished_run_gives_it_back(tmp_path, steps):
    expected, whole = whole_run()
    fit(small(), banana(), banana(seed=1), checkpoint=tmp_path / "c", **RUN)
    steps.clear()
    flow = small(seed=9)
    history = fit(flow, banana(), banana(seed=1), checkpoint=tmp_path / "c", resume=True, **RUN)
    assert not steps and np.array_equal(flow.theta, expected.theta)
    assert losses(history) == losses(whole) and history.stopped == "epochs"


def test_patience_goes_on_across_a_resumption(tmp_path, at_step):
    run = dict(epochs=80, learning_rate=0.03, schedule="constant", patience=5, progress=False)
    flows = [small(), small(), small()]
    whole = fit(flows[0], banana(20), banana(200, 1), **run)
    at_step(len(whole.val_loss) - 2, ctrl_c)
    fit(flows[1], banana(20), banana(200, 1), checkpoint=tmp_path / "c", **run)
    for _ in range(2):  # the second finds nothing left to do
        history = fit(
            flows[2], banana(20), banana(200, 1), checkpoint=tmp_path / "c", resume=True, **run
        )
        assert losses(history) == losses(whole) and history.stopped == whole.stopped == "patience"
        assert np.array_equal(flows[0].theta, flows[2].theta)


def test_seconds_add_up(tmp_path, at_step):
    at_step(6, lambda: (time.sleep(0.1), ctrl_c()))
    first = fit(small(), banana(), banana(seed=1), checkpoint=tmp_path / "c", **RUN)
    second = fit(small(), banana(), banana(seed=1), checkpoint=tmp_path / "c", resume=True, **RUN)
    assert 0.1 < first.seconds < second.seconds


RUNNER = """
import json, sys, numpy as np, afnp
x, v = np.random.default_rng(0).standard_normal((2, 120, 2)) ** 2
flow = afnp.maf(2, hidden=(8,), transforms=2)
history = afnp.fit(flow, x, v, epochs=300, batch_size=30, progress=False,
                   resume=True, checkpoint=sys.argv[1])
losses = history.train_loss, history.val_loss, history.best_epoch
print(json.dumps([flow.theta.tobytes().hex(), *losses]))
"""


@posix
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_checkpoint_that_is_no_regular_file(tmp_path, steps, kind):
    path = tmp_path / "c"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path = os.devnull
    for resume in (False, True):
        with pytest.raises(ValueError, match=f"{path}: a {kind}; expected a regular file"):
            fit(small(), banana(), epochs=1, progress=False, checkpoint=path, resume=resume)
    assert not steps


@posix
def test_a_checkpoint_named_in_bytes(tmp_path):
    run = dict(epochs=1, progress=False, checkpoint=os.fsencode(tmp_path / "c"))
    fit(small(), banana(), **run)
    fit(small(), banana(), resume=True, **run)
    assert os.listdir(tmp_path) == ["c"]


@posix
def test_kill_9_and_resume_to_the_last_bit(tmp_path):
    """Killed at random moments, steps and writes alike, then resumed:
    the run that was never killed."""

    def start(name):
        return subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(tmp_path / name)], stdout=subprocess.PIPE, text=True
        )

    expected = start("whole").communicate(timeout=60)[0]
    rng, unfinished, checkpoint = np.random.default_rng(0), 0, tmp_path / "c"

    def written():
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    for _ in range(4):
        before, running = written(), start("c")
        while running.poll() is None and written() == before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        running.kill()
        unfinished += not running.communicate()[0]
    assert unfinished
    out = start("c").communicate(timeout=60)[0]
    assert json.loads(out) == json.loads(expected)


CHANGES = {
    "batch_size": {"batch_size": 31},
    "learning_rate": {"learning_rate": 0.011},
    "schedule": {"schedule": "constant"},
    "clip": {"clip": 4.0},
    "weight_decay": {"weight_decay": 0.0},
    "seed": {"seed": 6},
    "epochs": {"epochs": 3},
    "freeze": {"freeze": [0]},
    "patience": {"patience": None},
    "data": {"x_train": banana(seed=2)},
    "data (validation)": {"x_val": banana(seed=2)},
    "data (one number)": {"x_train": np.where(np.arange(240).reshape(120, 2) == 77, 1.0, banana())},
    "flow": {"flow": afnp.maf(2, hidden=(9,), transforms=2)},
    "flow (precision)": {"flow": afnp.maf(2, hidden=(8,), transforms=2, dtype=np.float32)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_recipe_is_refused_by_name(tmp_path, name):
    recipe = {
        "flow": small(),
        "x_train": banana(),
        "x_val": banana(seed=1),
        **RUN,
        "checkpoint": tmp_path / "c",
    }
    fit(**recipe)
    before = (tmp_path / "c").read_bytes()
    changed = {**recipe, **CHANGES[name]}
    theta = changed["flow"].theta.copy()
    with pytest.raises(ValueError, match=rf"another recipe; {name.split()[0]} differs"):
        fit(**changed, resume=True)
    assert np.array_equal(changed["flow"].theta, theta) and (tmp_path / "c").read_bytes() == before


def test_a_context_is_part_of_the_recipe(tmp_path):
    c = np.random.default_rng(0).standard_normal((120, 2))
    run = dict(epochs=2, progress=False, checkpoint=tmp_path / "c")
    fit(small(context=2), banana(), context=c, **run)
    fit(small(context=2), banana(), context=c, resume=True, **run)
    with pytest.raises(ValueError, match="data differs"):
        fit(small(context=2), banana(), context=c + 1, resume=True, **run)


def test_a_checkpoint_is_not_overwritten_by_a_new_run(tmp_path):
    fit(small(), banana(), epochs=1, progress=False, checkpoint=tmp_path / "c")
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(ValueError, match="c exists; pass resume=True, or delete it first"):
        fit(small(), banana(), epochs=1, progress=False, checkpoint=tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before


def test_resume_needs_a_checkpoint():
    with pytest.raises(ValueError, match="resume: expected a checkpoint"):
        fit(small(), banana(), epochs=1, progress=False, resume=True)


def test_a_model_is_no_checkpoint(tmp_path):
    afnp.save(small(), tmp_path / "m")
    with pytest.raises(ModelFileError, match="expected a checkpoint, got a model"):
        fit(small(), banana(), epochs=1, progress=False, checkpoint=tmp_path / "m", resume=True)


@pytest.mark.parametrize(
    "header",
    [{}, {"run": {}}, {"run": {"recipe": 3}}, {"run": {"recipe": {}, "later": 1}}],
    ids=["empty", "no recipe", "a number", "of a later version"],
)
def test_a_sound_container_with_other_contents(tmp_path, header):
    write(tmp_path / "c", "checkpoint", header, {"theta": np.zeros(3)})
    with pytest.raises(ValueError):
        fit(small(), banana(), epochs=1, progress=False, checkpoint=tmp_path / "c", resume=True)


def test_a_folder_that_is_not_there_is_found_at_once(tmp_path, steps):
    with pytest.raises((ValueError, OSError)):
        fit(small(), banana(), epochs=1, progress=False, checkpoint=tmp_path / "nowhere" / "c")
    assert not steps


@pytest.mark.parametrize(
    "option",
    [
        {"seed": np.int64(3)},
        {"epochs": np.int64(2)},
        {"learning_rate": np.float32(0.01)},
        {"clip": math.inf},
    ],
)
def test_numpy_numbers_as_options(tmp_path, option):
    run = {"epochs": 2, "progress": False, "checkpoint": tmp_path / "c", **option}
    fit(small(), banana(), **run)
    assert len(fit(small(), banana(), resume=True, **run).train_loss) == 2


# ---- going on for longer, and with other rows ----------------------------------------------------


@pytest.mark.parametrize("stopped_at", [4, 7, 12])
def test_more_epochs_than_before(tmp_path, at_step, stopped_at):
    """With constant rates, going on for longer is the longer run, bit for bit."""
    run = dict(batch_size=30, schedule="constant", progress=False)
    flows = [small(), small(), small()]
    whole = fit(flows[0], banana(), banana(seed=1), epochs=6, **run)
    at_step(stopped_at, ctrl_c)
    fit(flows[1], banana(), banana(seed=1), epochs=3, checkpoint=tmp_path / "c", **run)
    history = fit(
        flows[2], banana(), banana(seed=1), epochs=6, checkpoint=tmp_path / "c", resume=True, **run
    )
    assert losses(history) == losses(whole) and history.stopped == "epochs"
    assert np.array_equal(flows[0].theta, flows[2].theta)
    with pytest.raises(ModelFileError, match="epochs differs: 6 there, 5 here"):
        fit(
            flows[2],
            banana(),
            banana(seed=1),
            epochs=5,
            checkpoint=tmp_path / "c",
            resume=True,
            **run,
        )


def test_the_cosine_of_a_longer_run_begins_where_it_stands(tmp_path):
    run = dict(batch_size=30, learning_rate=1.0, clip=1e-9, progress=False)
    run["checkpoint"] = tmp_path / "c"
    fit(small(), banana(), epochs=3, **run)
    history = fit(small(), banana(), epochs=6, resume=True, **run)
    wave = 0.5 * (1 + np.cos(np.pi * np.array([1 / 3, 2 / 3, 1, 4 / 6, 5 / 6, 1])))
    np.testing.assert_allclose(history.learning_rate, wave, atol=1e-15)


@pytest.mark.parametrize("between", [(), "actnorm", "batchnorm"])
def test_training_goes_on_from_where_the_flow_is(between):
    """New rows: a flow goes on from what it has learnt, also in layers begun by statistics."""
    flow = small(between=between)
    fit(flow, banana(400), epochs=40, learning_rate=0.01, progress=False)
    before = flow.theta.copy()
    history = fit(flow, banana(400, seed=1), epochs=1, learning_rate=1e-4, progress=False)
    assert np.abs(flow.theta - before).max() < 0.05  # running statistics move by a tenth
    fresh = fit(small(between=between), banana(400, seed=1), epochs=1, progress=False)
    assert history.train_loss[0] < fresh.train_loss[0] - 0.2


# ---- schedules, callbacks, frozen layers, lines --------------------------------------------------


def test_a_schedule_of_ones_own(steps):
    fit(
        small(),
        banana(60),
        epochs=3,
        batch_size=20,
        learning_rate=0.5,
        schedule=lambda done: 1 - done,
        progress=False,
    )
    np.testing.assert_allclose([step["rate"] for step in steps], 0.5 * (1 - np.arange(9) / 9))


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, None, "fast"])
def test_a_schedule_that_makes_no_sense(value):
    with pytest.raises(ValueError, match="schedule: expected a finite number of at least 0 for 0"):
        fit(small(), banana(), epochs=3, schedule=lambda done: value, progress=False)


def test_a_schedule_is_part_of_the_recipe(tmp_path):
    def mine(done):
        return 1.0

    run = dict(epochs=2, progress=False, checkpoint=tmp_path / "c")
    fit(small(), banana(), schedule=mine, **run)
    fit(small(), banana(), schedule=mine, resume=True, **run)
    with pytest.raises(ValueError, match="schedule differs.*mine there, constant here"):
        fit(small(), banana(), schedule="constant", resume=True, **run)


def test_callbacks_are_told_each_epoch():
    seen, order = [], []
    callbacks = [seen.append, lambda record: order.append(len(seen))]
    history = fit(small(), banana(), banana(seed=1), epochs=4, progress=False, callbacks=callbacks)
    assert [record.epoch for record in seen] == [0, 1, 2, 3] and order == [1, 2, 3, 4]
    assert [record.train_loss for record in seen] == history.train_loss
    assert [record.val_loss for record in seen] == history.val_loss
    assert [record.learning_rate for record in seen] == history.learning_rate
    assert max(k for k, record in enumerate(seen) if record.best) == history.best_epoch
    assert {record.epochs for record in seen} == {4} and seen[-1].seconds == history.seconds
    fit(small(), banana(), epochs=1, progress=False, callbacks=[seen.append])
    assert seen[-1].val_loss is None and not seen[-1].best


def test_a_callback_may_stop_and_the_run_be_resumed(tmp_path):
    expected, whole = whole_run()
    run = {**RUN, "checkpoint": tmp_path / "c"}
    flow = small()
    history = fit(
        flow, banana(), banana(seed=1), callbacks=[lambda record: record.epoch == 1], **run
    )
    assert history.stopped == "callback" and len(history.train_loss) == 2
    resumed = fit(flow, banana(), banana(seed=1), resume=True, **run)
    assert losses(resumed) == losses(whole) and np.array_equal(flow.theta, expected.theta)


def test_what_a_callback_raises_loses_nothing(tmp_path):
    def failing(record):
        raise RuntimeError("mine")

    run = {**RUN, "checkpoint": tmp_path / "c"}
    flow = small()
    with pytest.raises(RuntimeError, match="mine"):
        fit(flow, banana(), banana(seed=1), callbacks=[failing], **run)
    expected, whole = whole_run()
    resumed = fit(flow, banana(), banana(seed=1), resume=True, **run)
    assert losses(resumed) == losses(whole) and np.array_equal(flow.theta, expected.theta)


@pytest.mark.parametrize("freeze", [[0], [1], [-1], [0, 2], np.array([2])])
@pytest.mark.parametrize("between", ["lu", "batchnorm"])
def test_frozen_layers_keep_their_parameters(freeze, between):
    flow = small(between=between)
    fit(flow, banana(), epochs=1, progress=False)
    before = [p.flat.copy() for p in flow.split(flow.theta)]
    fit(flow, banana(), epochs=2, weight_decay=0.1, freeze=freeze, progress=False)
    frozen = {k % len(flow.layers) for k in freeze}
    for k, (p, old) in enumerate(zip(flow.split(flow.theta), before, strict=True)):
        assert np.array_equal(p.flat, old) == (k in frozen)


def test_the_gradient_of_frozen_layers_does_not_count(steps):
    """The length that ``clip`` looks at is that of what moves."""
    x, flow = banana(40), small()
    _, g = flow.loss_and_grad(x)
    start = flow.layers[0].layout.size
    clip = 0.5 * np.linalg.norm(g[start:])
    fit(flow, x, epochs=1, batch_size=40, clip=clip, freeze=[0], progress=False)
    assert not steps[0]["g"][:start].any()
    np.testing.assert_allclose(steps[0]["g"][start:], 0.5 * g[start:], rtol=1e-9, atol=1e-15)


def test_a_line_an_epoch_where_there_is_no_terminal(capsys):
    fit(small(), banana(), banana(seed=1), epochs=3)
    out, err = capsys.readouterr()
    assert out == "" and [line[:16] for line in err.splitlines()] == [
        f"fit: epoch {k}/3: " for k in (1, 2, 3)
    ]
    assert "\r" not in err and all(", val " in line for line in err.splitlines())


class Unread:
    """A stream of a full disk, of a reader that has gone, or one that was closed."""

    def __init__(self, error):
        self.error = error

    def isatty(self):
        return False

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


def closed():
    """A stream that somebody closed."""
    stream = io.StringIO()
    stream.close()
    return stream


UNREAD = [
    Unread(BrokenPipeError()),
    Unread(OSError(28, "full")),
    Unread(ValueError("closed")),
    Unread(RuntimeError("of its own")),
    closed(),
    io.BytesIO(),
    SimpleNamespace(),
    None,
]


@pytest.mark.parametrize("stream", UNREAD)
def test_training_goes_on_where_its_lines_cannot_be_written(monkeypatch, stream):
    """A reader that had seen enough, ``2>&1 | head``, once ended it without a result."""
    plain, flow = small(), small()
    fit(plain, banana(), epochs=3, progress=False)
    monkeypatch.setattr(sys, "stderr", stream)
    history = fit(flow, banana(), epochs=3)
    assert history.stopped == "epochs" and np.array_equal(flow.theta, plain.theta)


class Kept:
    """A stream of somebody's own, which can be written to and little else."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Vanished(Kept):
    """One whose terminal is gone."""

    def isatty(self):
        raise OSError(5, "Input/output error")


class Unflushed(Kept):
    """One that knows that it is no terminal."""

    def isatty(self):
        return False


@pytest.mark.parametrize("kind", [Kept, Vanished, Unflushed])
def test_every_line_is_written_where_a_stream_takes_it(monkeypatch, kind):
    monkeypatch.setattr(sys, "stderr", kind())
    fit(small(), banana(), epochs=3)
    assert [line[:16] for line in sys.stderr.text.splitlines()] == [
        f"fit: epoch {k}/3: " for k in (1, 2, 3)
    ]


@pytest.mark.parametrize("kind", [Kept, Vanished, Unflushed])
def test_a_bar_is_drawn_where_a_stream_takes_it(monkeypatch, kind):
    pytest.importorskip("tqdm", reason="NOT TESTED: pip install tqdm")
    monkeypatch.setattr(sys, "stderr", kind())
    assert list(progress.bar(range(3))) == [0, 1, 2] and "3/3" in sys.stderr.text


def test_signs_that_the_encoding_lacks_are_spelt_out(monkeypatch):
    tqdm = pytest.importorskip("tqdm", reason="NOT TESTED: pip install tqdm").tqdm
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    assert say("ä λ.csv") and say("ä.csv")
    assert sys.stderr.buffer.getvalue().decode("cp1252").splitlines() == [
        "\\xe4 \\u03bb.csv",
        "ä.csv",
    ]
    with tqdm(total=1, desc="λ", file=for_bars()) as shown:
        shown.update()
    assert b"\\u03bb: 100%" in sys.stderr.buffer.getvalue()


@pytest.mark.parametrize("file", [lambda: None, lambda: sys.stderr, for_bars])
def test_a_line_beside_a_bar_begins_at_the_margin(monkeypatch, file):
    """tqdm erases the bar where it sees that the line goes to the same place."""
    tqdm = pytest.importorskip("tqdm", reason="NOT TESTED: pip install tqdm").tqdm
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(sys, "stdout", Both(log))
    with tqdm(total=2, mininterval=0, file=for_bars()) as shown:
        shown.update()
        tqdm.write("a line", file=file())
    before, after = log.getvalue().split("a line\n")
    assert re.search("1/2.*\r *\r$", before) and "1/2" in after


class Both:
    """Standard output that goes to the same file as stderr."""

    def __init__(self, log):
        self.write, self.flush = log.write, log.flush


@pytest.mark.parametrize("name", ["stderr", "stdout"])
@pytest.mark.parametrize("stream", UNREAD)
def test_work_goes_on_where_its_bar_cannot_be_drawn(monkeypatch, stream, name):
    """Verification, compilation and figures once ended there; tqdm alone knows terminals only."""
    tqdm = pytest.importorskip("tqdm", reason="NOT TESTED: pip install tqdm").tqdm
    monkeypatch.setattr(sys, name, stream)
    assert list(progress.bar(range(3))) == [0, 1, 2]
    with tqdm(range(3), mininterval=0, file=for_bars()) as shown:
        assert list(shown) == [0, 1, 2]
        shown.set_postfix_str("done")
        tqdm.write("a line", file=for_bars())


def test_a_bar_where_there_is_a_terminal(capsys, monkeypatch):
    pytest.importorskip("tqdm", reason="NOT TESTED: pip install tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fit(small(), banana(), epochs=2)
    assert "2/2" in (err := capsys.readouterr().err) and "\r" in err


# ---- options that make no sense ------------------------------------------------------------------

REFUSED = {
    "weights of another length": (
        {"weights": np.ones(119)},
        r"weights: expected 120 numbers, got shape \(119,\)",
    ),
    "weights in a column": ({"weights": np.ones((120, 1))}, "weights: expected 120 numbers"),
    "weights in words": ({"weights": ["a"] * 120}, "weights: expected 120 numbers"),
    "a negative weight": (
        {"weights": np.where(np.arange(120) == 7, -1, 1)},
        "weights: row 7: expected a finite number of at least 0, got -1",
    ),
    "a weight of nan": (
        {"weights": np.where(np.arange(120) == 7, np.nan, 1)},
        "weights: row 7: expected a finite number",
    ),
    "no weight at all": ({"weights": np.zeros(120)}, "weights: expected at least one above 0"),
    "weights for validation": (
        {"x_val": banana(seed=1), "weights_val": np.full(120, math.inf)},
        "weights_val: row 0: expected a finite number",
    ),
    "weights without validation": ({"weights_val": np.ones(120)}, "weights_val: needs validation"),
    "callbacks that are none": ({"callbacks": 3}, "callbacks: expected a sequence of callables"),
    "callbacks of no dimension": ({"callbacks": np.array(0)}, "callbacks: expected a sequence of"),
    "layers of no dimension": ({"freeze": np.array(0)}, "freeze: expected a sequence of"),
    "a callback that is none": ({"callbacks": [3]}, "callbacks: expected a sequence of callables"),
    "a layer that is not there": ({"freeze": [2]}, "freeze: expected numbers of 2 layers, got 2"),
    "all layers": ({"freeze": [0, 1]}, "freeze: expected at least one parameter to train"),
    "a layer by name": ({"freeze": "first"}, "freeze: expected a sequence of integers"),
    "a layer in part": ({"freeze": [0.5]}, "freeze: expected an integer"),
    "a layer of a model without": (
        {"flow": afnp.DiscreteMADE(2, hidden=(3,)), "x_train": [[0, 1]], "freeze": [0]},
        "freeze: expected numbers of 0 layers, got 0",
    ),
    "a schedule that is none": ({"schedule": 3}, "schedule: expected one of"),
    "epochs 0": ({"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
    "batch_size 0": ({"batch_size": 0}, "batch_size: expected an integer of at least 1, got 0"),
    "batch_size -3": ({"batch_size": -3}, "batch_size: expected an integer of at least 1, got -3"),
    "learning_rate 0": ({"learning_rate": 0}, "learning_rate: expected a positive number, got 0"),
    "learning_rate nan": ({"learning_rate": float("nan")}, "learning_rate: expected"),
    "clip 0": ({"clip": 0}, "clip: expected a positive number, got 0"),
    "clip nan": ({"clip": float("nan")}, "clip: expected"),
    "weight_decay -1": (
        {"weight_decay": -1},
        "weight_decay: expected a number of at least 0, got -1",
    ),
    "schedule": (
        {"schedule": "linear"},
        "schedule: expected one of 'cosine', 'constant', got 'linear'",
    ),
    "patience -1": (
        {"patience": -1, "x_val": banana()},
        "patience: expected an integer of at least 1, got -1",
    ),
    "patience alone": (
        {"patience": 2},
        "patience: needs validation rows",
    ),
    "seed -1": ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
    "no rows": ({"x_train": banana(0)}, "x_train: expected at least one row"),
    "one row": (
        {"x_train": banana()[0]},
        r"x_train: expected a two-dimensional array .* x_train\[None, :\]",
    ),
    "three columns": ({"x_train": np.zeros((5, 3))}, "x_train: expected 2 columns, got 3"),
    "nan": ({"x_train": [[0.0, 1.0], [np.nan, 1.0]]}, "x_train: row 1, feature 0 is nan"),
    "beyond float32": (
        {"x_train": np.full((2, 2), 1e39), "flow": small(dtype=np.float32)},
        "feature 0 is 1e.39; every value must be finite as float32",
    ),
    "words": ({"x_train": [["a", "b"]]}, "x_train: expected real numbers"),
    "validation nan": ({"x_val": [[0.0, np.inf]]}, "x_val: row 0, feature 1 is inf"),
    "validation columns": ({"x_val": np.zeros((5, 3))}, "x_val: expected 2 columns, got 3"),
    "context unasked": ({"context": np.zeros((120, 1))}, "context: expected no columns"),
    "patience 0": (
        {"patience": 0, "x_val": banana()},
        "patience: expected an integer of at least 1, got 0",
    ),
    "learning_rate inf": ({"learning_rate": math.inf}, "learning_rate: expected"),
    "weight_decay nan": ({"weight_decay": float("nan")}, "weight_decay: expected"),
    "weight_decay inf": ({"weight_decay": math.inf}, "weight_decay: expected"),
    "epochs 2.5": ({"epochs": 2.5}, "epochs: expected an integer, got 2.5"),
    "batch_size 2.5": ({"batch_size": 2.5}, "batch_size: expected an integer"),
    "no validation rows": ({"x_val": banana(0)}, "x_val: expected at least one row"),
    "context without validation": ({"context_val": np.zeros((1, 1))}, "context_val"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(steps, case):
    changes, message = REFUSED[case]
    options = {"flow": small(), "x_train": banana(), "epochs": 1, "progress": False, **changes}
    theta = options["flow"].theta.copy()
    with pytest.raises(ValueError, match=message):
        fit(**options)
    assert not steps and np.array_equal(options["flow"].theta, theta)


# ---- preprocess="standard" -----------------------------------------------------------------------


def rows_in_their_units(n=200, seed=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 2)) * [3.0, 1e5] + [40.0, 2e6], rng.uniform(1990, 2020, (n, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_standard_preprocessing_takes_the_scales_of_training_rows_and_contexts(dtype, tmp_path):
    x, years = rows_in_their_units()
    fitted, told = (
        afnp.maf(2, (8,), 2, context=1, seed=3, dtype=dtype, preprocess=how)
        for how in ("standard", afnp.preprocessing(x))
    )
    told.standardize_context(years)
    for flow in (fitted, told):
        afnp.fit(flow, x, context=years, epochs=2, batch_size=64, seed=1, progress=False)
    assert np.array_equal(fitted.theta, told.theta)
    assert np.array_equal(fitted.log_prob(x, years), told.log_prob(x, years))
    afnp.save(fitted, tmp_path / "f.npz")
    again = afnp.load(tmp_path / "f.npz")
    assert not again.layers[0].waiting and again.context_scale is not None
    assert np.array_equal(again.log_prob(x, years), told.log_prob(x, years))


def test_standard_preprocessing_is_taken_once_and_waits_in_files(tmp_path):
    x, _ = rows_in_their_units()
    flow = afnp.maf(2, (8,), 1, preprocess="standard")
    afnp.save(flow, tmp_path / "f.npz")
    flow = afnp.load(tmp_path / "f.npz")
    assert flow.layers[0].waiting
    afnp.fit(flow, x, epochs=1, progress=False)
    mean = flow.layers[0].mean.copy()
    assert np.allclose(mean, x.mean(axis=0), rtol=1e-12)
    afnp.fit(flow, x + 7.0, epochs=1, progress=False)
    assert np.array_equal(flow.layers[0].mean, mean)


def test_whole_weights_scale_as_repeated_rows_do():
    x, _ = rows_in_their_units(60)
    w = np.random.default_rng(0).integers(0, 4, 60)
    weighted, repeated = (afnp.maf(2, (8,), 1, preprocess="standard") for _ in range(2))
    weighted.take_scales(x, weights=w)
    repeated.take_scales(np.repeat(x, w, axis=0))
    for part in ("mean", "std"):
        got, true = (getattr(flow.layers[0], part) for flow in (weighted, repeated))
        assert np.allclose(got, true, rtol=1e-12)


def test_scales_taken_before_a_fit_count_weights_too():
    x, years = rows_in_their_units(60)
    w = np.random.default_rng(0).integers(0, 4, 60)
    weighted = afnp.maf(2, (8,), 1, context=1, preprocess=afnp.preprocessing(x, weights=w))
    weighted.standardize_context(years, w)
    x, years = np.repeat(x, w, axis=0), np.repeat(years, w, axis=0)
    repeated = afnp.maf(2, (8,), 1, context=1, preprocess=afnp.preprocessing(x))
    repeated.standardize_context(years)
    got, true = (flow.log_prob(x, years) for flow in (weighted, repeated))
    np.testing.assert_allclose(got, true, rtol=1e-12)
    for wrong in (np.zeros(len(x)), -np.ones(len(x)), np.ones(3)):
        with pytest.raises(ValueError, match="^weights: "):
            afnp.preprocessing(x, weights=wrong)
        with pytest.raises(ValueError, match="^weights: "):
            weighted.standardize_context(years, wrong)


def test_a_resumed_run_has_the_scales_of_its_first_part(tmp_path):
    x, _ = rows_in_their_units()
    options = {"batch_size": 50, "seed": 2, "progress": False}
    flows = [afnp.maf(2, (8,), 1, seed=4, preprocess="standard") for _ in range(3)]
    afnp.fit(flows[0], x, epochs=3, **options)
    path = tmp_path / "run.ckpt"

    def stop(epoch):
        return epoch.epoch == 1

    afnp.fit(flows[1], x, epochs=3, checkpoint=path, callbacks=[stop], **options)
    afnp.fit(flows[2], x, epochs=3, checkpoint=path, resume=True, **options)
    assert np.array_equal(flows[2].layers[0].std, flows[0].layers[0].std)
    assert np.array_equal(flows[2].theta, flows[0].theta)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: afnp.maf(2, preprocess="standart"), "preprocess: expected .*'standard'"),
        (lambda: afnp.nsf(2, circular=True, preprocess="standard"), "without preprocess="),
        (
            lambda: afnp.fit(afnp.maf(2, (4,), 1, preprocess="standard"), [[1.0, np.nan]]),
            "x_train: row 0",
        ),
    ],
)
def test_wrong_use_of_standard_preprocessing_names_the_argument(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_scales_are_those_of_what_the_layers_before_give():
    x = np.random.default_rng(0).uniform(2.0, 9.0, (200, 1))
    inside = afnp.preprocessing(x, bounds=[(0.0, 10.0)])
    waiting = Standardize([0.0], [1.0], waiting=True)
    flow = afnp.maf(1, (4,), 1, preprocess=[inside[0], waiting])
    flow.take_scales(x)
    assert np.allclose(waiting.mean, inside[1].mean) and np.allclose(waiting.std, inside[1].std)
