r"""Wrong behaviour: the numbers are right when asked once, nicely.

.. math:: f(A),\; f(B),\; f(A) \qquad \text{and} \qquad f(\mathrm{NaN}),\; f(\{\})
"""

from __future__ import annotations

import numpy as np

from afnp.verify.mutants.registry import mutant, replace

PUBLIC = ("normalize", "generate", "log_prob")


def _wrap(functions, change, names=PUBLIC) -> None:
    """Put ``change(function, rows, context)`` around functions."""
    for name in names:
        replace(functions, name)(lambda function, rows, context: change(function, rows, context))


def _plural(result):
    return result if isinstance(result, tuple) else (result,)


def _like(result, arrays):
    return tuple(arrays) if isinstance(result, tuple) else next(iter(arrays))


# ---- state ---------------------------------------------------------------------------------------


@mutant("affine", kills="deterministic")
def log_prob_changes_parameters(flow):
    """Every log_prob moves a parameter by a few bits: running statistics that are never frozen."""

    @replace(flow, "log_prob")
    def log_prob(log_prob, x, context=None, **way):
        flow.theta[-1] *= 1 + 4 * np.finfo(flow.dtype).eps
        return log_prob(x, context, **way)


@mutant("affine", kills="deterministic")
def dropout_left_on(flow):
    """Hidden units drop out at evaluation too: model.eval() was forgotten."""
    net, rng = flow.layers[0].conditioner, np.random.default_rng(0)

    @replace(net, "forward")
    def forward(forward, p, context, x):
        h, cache = forward(p, context, x)
        return h * (rng.random(h.shape[1:]) > 0.1), cache


@mutant("functions", kills="round_trip")
def answer_from_a_cache_by_shape(functions):
    """Results are kept by the shape of the input: right for the first batch of every size."""
    for name in PUBLIC:
        kept: dict = {}

        @replace(functions, name)
        def cached(function, rows, context, kept=kept):
            return kept.setdefault(rows.shape, function(rows, context))


@mutant("functions", kills="deterministic")
def buffer_reused(functions):
    """Results are views of one buffer, which the next call overwrites."""
    buffer = np.empty((4096, 2))

    @replace(functions, "normalize")
    def normalize(normalize, x, context):
        u, log_det = normalize(x, context)
        buffer[: len(u)] = u
        return buffer[: len(u)], log_det


@mutant("functions", kills="deterministic")
def stochastic(functions):
    """Every answer carries fresh noise of 1e-9: an estimator taken for a value."""
    rng = np.random.default_rng(0)

    def noisy(function, rows, context):
        result = function(rows, context)
        return _like(result, [a + 1e-9 * rng.standard_normal(a.shape) for a in _plural(result)])

    _wrap(functions, noisy)


# ---- input ---------------------------------------------------------------------------------------


@mutant("functions", kills="pure")
def input_changed_in_place(functions):
    """Rows are scaled in place: ``*=`` to save an allocation."""

    def in_place(function, rows, context):
        rows *= 2
        return function(rows / 2, context)

    _wrap(functions, in_place)


@mutant("functions", kills="pure")
def context_changed_in_place(functions):
    """The context is scaled in place, the rows are left alone."""

    def in_place(function, rows, context):
        context *= 2
        return function(rows, context / 2)

    _wrap(functions, in_place)


@mutant("affine", kills="batch_independence")
def rows_centred_by_their_batch(flow):
    """The input is centred by its batch's mean, a little: normalisation in the wrong place."""

    @replace(flow, "normalize")
    def normalize(normalize, x, context=None, **way):
        return normalize(np.asarray(x) + 1e-9 * np.mean(x), context, **way)


@mutant("functions", kills="batch_independence")
def square_batch_transposed(functions):
    """A batch with as many rows as features is taken for columns."""
    _wrap(
        functions,
        lambda function, rows, context: function(
            rows.T if rows.shape[0] == rows.shape[1] else rows, context
        ),
    )


@mutant("functions", kills="batch_independence")
def last_rows_of_a_block_forgotten(functions):
    """Rows are worked on in blocks of eight.

    What is left over gets the last full block's answer.
    """

    def in_blocks(function, rows, context):
        result = function(rows, context)
        whole = len(rows) // 8 * 8
        if whole:
            for array in _plural(result):
                array[whole:] = array[whole - 1]
        return result

    _wrap(functions, in_blocks)


@mutant("functions", kills="shapes")
def one_row_squeezed(functions):
    """One row comes back as a vector: squeeze() without an axis."""

    def squeezed(function, rows, context):
        result = function(rows, context)
        return _like(result, [a.squeeze() for a in _plural(result)])

    _wrap(functions, squeezed)


@mutant("functions", kills="shapes")
def results_in_float32(functions):
    """Results are float32 although everything given is float64."""

    def narrowed(function, rows, context):
        result = function(rows, context)
        return _like(result, [a.astype(np.float32) for a in _plural(result)])

    _wrap(functions, narrowed)


@mutant("functions", kills="shapes")
def log_det_with_an_extra_axis(functions):
    """The log-determinant comes as (N, 1): the next sum broadcasts it to (N, N)."""

    def columns(function, rows, context):
        y, log_det = function(rows, context)
        return y, log_det[:, None]

    _wrap(functions, columns, ("normalize", "generate"))


# ---- odd input -----------------------------------------------------------------------------------


@mutant("functions", kills="odd_input")
def nan_swallowed(functions):
    """NaN becomes 0: a plausible likelihood for a row that has none."""
    _wrap(functions, lambda function, rows, context: function(np.nan_to_num(rows), context))


@mutant("functions", kills="odd_input")
def infinity_clipped(functions):
    """Infinite inputs are clipped to 30 and answered like any other."""
    _wrap(functions, lambda function, rows, context: function(np.clip(rows, -30, 30), context))


@mutant("functions", kills="odd_input")
def nan_in_the_context_swallowed(functions):
    """A condition that is not a number counts as 0."""
    _wrap(functions, lambda function, rows, context: function(rows, np.nan_to_num(context)))


@mutant("functions", kills="shapes")
def empty_batch_crashes(functions):
    """An empty batch ends in an IndexError far inside."""

    def crash(function, rows, context):
        _ = rows[0]
        return function(rows, context)

    _wrap(functions, crash)


@mutant("functions", kills="odd_input")
def nan_rows_dropped(functions):
    """Rows that are not finite are left out of the answer: fewer rows than were asked about."""

    def dropped(function, rows, context):
        good = np.isfinite(rows).all(axis=1)
        return function(rows[good], context[good])

    _wrap(functions, dropped)
