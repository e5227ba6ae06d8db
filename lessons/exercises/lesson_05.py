"""Exercises of lesson 05: backprop by hand."""

import numpy as np
from checker import Exercise

_rng = np.random.default_rng(5)


def _complex_step(f, x):
    return np.array([f(x + 1e-30j * unit).imag / 1e-30 for unit in np.eye(len(x))])


def _forward_difference(f, x):
    return np.array([(f(x + 1e-6 * unit) - f(x)) / 1e-6 for unit in np.eye(len(x))])


def _backward_linear(x, W, M, d_y):
    return M * (d_y.T @ x), d_y.sum(axis=0), d_y @ (M * W)


def _unmasked_d_W(x, W, M, d_y):
    return d_y.T @ x, d_y.sum(axis=0), d_y @ (M * W)


def _unmasked_d_x(x, W, M, d_y):
    return M * (d_y.T @ x), d_y.sum(axis=0), d_y @ W


def _mean_d_b(x, W, M, d_y):
    return M * (d_y.T @ x), d_y.mean(axis=0), d_y @ (M * W)


def _layer(N, inputs, outputs):
    M = _rng.random((outputs, inputs)) < 0.6
    return (
        _rng.standard_normal((N, inputs)),
        _rng.standard_normal((outputs, inputs)),
        M,
        _rng.standard_normal((N, outputs)),
    )


def _backward_loss(x, mu, alpha):
    u = (x - mu) * np.exp(-alpha)
    return -u * np.exp(-alpha) / len(x), (1 - u**2) / len(x)


def _no_determinant(x, mu, alpha):
    d_mu, d_alpha = _backward_loss(x, mu, alpha)
    return d_mu, d_alpha - 1 / len(x)


def _no_mean(x, mu, alpha):
    return tuple(part * len(x) for part in _backward_loss(x, mu, alpha))


def _no_inner_slope(x, mu, alpha):
    d_mu, d_alpha = _backward_loss(x, mu, alpha)
    return d_mu * np.exp(alpha), d_alpha


def _rows(N, D):
    return tuple(_rng.standard_normal((N, D)) for _ in range(3))


def _d_x(d_u, alpha, d_y, W, M):
    return d_u * np.exp(-alpha) + d_y @ (M * W)


def _ends(N, D, H):
    d_u, alpha = _rng.standard_normal((N, D)), _rng.standard_normal((N, D))
    return (
        d_u,
        alpha,
        _rng.standard_normal((N, H)),
        _rng.standard_normal((H, D)),
        _rng.random((H, D)) < 0.5,
    )


def _judge_culprits(names):
    names = set(names)
    if not names <= {"W0", "b0", "W1", "b1"}:
        return f"expected some of 'W0', 'b0', 'W1', 'b1', got {sorted(map(str, names))}"
    if names == {"W0", "b0"}:
        return None
    return f"not {sorted(names)}: compare each of the four with the complex step"


EXERCISES = [
    Exercise(
        "backward_linear",
        answer=_backward_linear,
        cases=[_layer(4, 3, 5), _layer(1, 2, 2), _layer(6, 1, 3)],
        hints=(
            "Shapes say nearly everything: d_W (outputs, inputs) is made of d_y (N, outputs) and "
            "x (N, inputs), summed over N.",
            "A matrix product sums over the index where its factors meet. For d_W that is n, "
            "so d_y comes transposed, and the mask last; for d_x it is j.",
        ),
        mistakes={
            (
                "leaving the mask out of d_W: weights that nobody reads would get a gradient"
            ): _unmasked_d_W,
            "leaving the mask out of d_x": _unmasked_d_x,
            "averaging d_b over the rows: each row adds its own": _mean_d_b,
        },
        because="Every layer that you will ever differentiate is a variation of these three lines.",
    ),
    Exercise(
        "tiny_step",
        answer="a",
        prediction=True,
        hints=(
            "How far apart are 1 and the next number that float64 can hold?",
            "1 + 1e-30 is 1, to the last bit. What is f(1) - f(1)?",
        ),
        mistakes={"trusting that smaller is always better": "b"},
        because="At the bottom of the curve above, central differences fall off a cliff.",
    ),
    Exercise(
        "complex_step",
        answer=_complex_step,
        cases=[
            (lambda x: (x**2).sum(), np.array([1.0, -2.0, 3.0])),
            (lambda x: np.exp(x[0]) * np.sin(x[1]), np.array([0.3, 0.7])),
            (lambda x: 1e8 * x[0] + x[1] / x[2], np.array([0.1, 0.2, 0.3])),
        ],
        hints=(
            "For entry k, add 1e-30j to x[k] alone: the rows of np.eye(len(x)) point along "
            "each entry.",
            "Call f once for each of these rows, at x and a tiny imaginary part of the row; the "
            "derivative is the imaginary part over the step.",
        ),
        mistakes={
            "subtracting two nearby values, which loses half of the digits": _forward_difference,
            "forgetting to divide by the step": lambda f, x: _complex_step(f, x) * 1e-30,
        },
        because=(
            "Exact to rounding, for any smooth function. This judge will sit beside us from now on."
        ),
        tolerance=1e-12,
    ),
    Exercise(
        "softplus_backward",
        answer=lambda a, d_a: d_a * (1 - np.exp(-a)),
        cases=[
            (np.array([0.1, 0.7, 3.0]), np.ones(3)),
            (_rng.uniform(0.01, 4, (2, 3)), _rng.standard_normal((2, 3))),
        ],
        hints=(
            "The derivative of log(1 + e^y) is e^y / (1 + e^y). Which a belongs to that y?",
            "e^a = 1 + e^y. Solve this for e^y, put it into the slope, and y is gone.",
        ),
        mistakes={
            "using the output a where the input y belongs": lambda a, d_a: d_a / (1 + np.exp(-a)),
            "forgetting to multiply by d_a": lambda a, d_a: 1 - np.exp(-a),
        },
        because="The output was enough: nobody needs to keep y.",
    ),
    Exercise(
        "backward_loss",
        answer=_backward_loss,
        cases=[_rows(4, 3), _rows(1, 2), _rows(7, 1)],
        hints=(
            "The loss is the mean over n of the sum over i of u**2 / 2 + alpha. First d_u = u / N.",
            "du/dmu = -e^(-alpha) and du/dalpha = -u; and alpha also stands in the loss by itself.",
        ),
        mistakes={
            (
                "forgetting that alpha is in the loss twice: the log-determinant is missing"
            ): _no_determinant,
            "forgetting that the loss is a mean over N rows": _no_mean,
            "forgetting the slope e^(-alpha) in du/dmu": _no_inner_slope,
        },
        because=(
            "At the optimum both vanish on average: u has mean 0, and u**2 has mean 1. Noise, "
            "in short."
        ),
    ),
    Exercise(
        "culprits",
        answer=("W0", "b0"),
        judge=_judge_culprits,
        any_length=True,
        hints=(
            "Step into theta for the gradient of broken(...)[0], and compare with "
            "broken(...)[1], name by name.",
            "A wrong line spoils everything that is computed after it, and nothing before it.",
        ),
        mistakes={
            "suspecting what was computed before the wrong line": ("W0", "b0", "W1", "b1"),
            "half of it": ("W0",),
        },
        because="The slope of tanh was written with its input y where its output a belongs.",
    ),
    Exercise(
        "d_x",
        answer=_d_x,
        cases=[_ends(3, 2, 4), _ends(1, 3, 3), _ends(5, 4, 6)],
        hints=(
            "Route one: x stands in u = (x - mu) e^(-alpha). Route two: x is what the first "
            "layer hears.",
            "The first is entry by entry, with the slope du/dx; the second is the d_x of a "
            "masked linear layer, from above.",
        ),
        mistakes={
            "taking only the direct route": lambda d_u, alpha, d_y, W, M: d_u * np.exp(-alpha),
            "taking only the route through the network": lambda d_u, alpha, d_y, W, M: (
                d_y @ (M * W)
            ),
            "leaving the mask out": lambda d_u, alpha, d_y, W, M: d_u * np.exp(-alpha) + d_y @ W,
        },
        because=(
            "This d_x is the d_u of the layer below: so a stack is differentiated, layer after "
            "layer."
        ),
    ),
]
