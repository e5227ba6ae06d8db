"""Odd and bad input: a right answer or an error that says what was expected, what came,
and where."""

import inspect
import re

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
import afnp.bases
from afnp.flow import Flow
from afnp.transforms import BatchNorm, masked
from afnp.transforms.preprocess import Dequantize, Logit, Standardize

D, C = 3, 2


@pytest.fixture
def flow():
    return lively(afnp.maf(D, hidden=(6, 6), transforms=2, order=[1, 2, 0]))


@pytest.fixture
def conditional():
    return lively(afnp.maf(D, hidden=(6, 6), transforms=2, order=[1, 2, 0], context=C))


CALLS = {
    "log_prob": lambda flow, x, context=None: flow.log_prob(x, context),
    "normalize": lambda flow, x, context=None: flow.normalize(x, context),
    "generate": lambda flow, x, context=None: flow.generate(x, context),
    "generate naive": lambda flow, x, context=None: flow.generate(x, context, method="naive"),
    "loss_and_grad": lambda flow, x, context=None: flow.loss_and_grad(x, context),
}
each_call = pytest.mark.parametrize("call", CALLS)


def rows_of(n=4, width=D, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width))


def equal(a, b):
    a, b = (r if isinstance(r, tuple) else (r,) for r in (a, b))
    return all(
        np.array_equal(x, y) and np.shape(x) == np.shape(y) for x, y in zip(a, b, strict=True)
    )


def name_of(call):
    """What the messages call the rows."""
    return "u" if call.startswith("generate") else "x"


# Shapes


@each_call
@pytest.mark.parametrize("width", [0, 2, 4])
def test_wrong_width(flow, call, width):
    with pytest.raises(ValueError, match=f"^{name_of(call)}: expected 3 columns, got {width}$"):
        CALLS[call](flow, rows_of(width=width))


@each_call
def test_a_single_row_is_told_how_to_become_one(flow, call):
    message = (
        r"expected a two-dimensional array \(N, 3\), got shape \(3,\); a single row is .\[None, :\]"
    )
    with pytest.raises(ValueError, match=message):
        CALLS[call](flow, np.zeros(D))


@each_call
@pytest.mark.parametrize("shape", [(), (4,), (2, 4, 3)])
def test_wrong_number_of_dimensions(flow, call, shape):
    with pytest.raises(
        ValueError,
        match=rf"expected a two-dimensional array \(N, 3\), got shape {re.escape(str(shape))}$",
    ):
        CALLS[call](flow, np.zeros(shape))


# Kinds


@each_call
@pytest.mark.parametrize(
    "x, dtype",
    [
        (np.zeros((2, D), dtype=complex), "complex128"),
        (np.zeros((2, D), dtype=object), "object"),
        ([["1", "2", "3"]], "<U1"),
        ([[b"1", b"2", b"3"]], r"\|S1"),
        (np.zeros((2, D), dtype="datetime64[s]"), r"datetime64\[s\]"),
        ([[1.0, None, 2.0]], "object"),
        (None, "object"),
    ],
)
def test_what_is_no_real_number_is_refused(flow, call, x, dtype):
    with pytest.raises(
        ValueError, match=rf"{name_of(call)}: expected real numbers, got dtype {dtype}"
    ):
        CALLS[call](flow, x)


@each_call
@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint64, np.int64, np.float16, np.float32, ">f8", np.longdouble]
)
def test_real_numbers_of_any_kind_are_converted(flow, call, dtype):
    x = np.array([[0, 1, 1], [1, 0, 1]], dtype=dtype)
    assert equal(CALLS[call](flow, x), CALLS[call](flow, x.astype(np.float64)))
    assert equal(CALLS[call](flow, x.astype(int).tolist()), CALLS[call](flow, x.astype(np.float64)))


# Values


@each_call
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named(flow, call, bad):
    x = rows_of(6)
    x[4, 0] = x[3, 2] = x[5, 1] = bad
    with pytest.raises(
        ValueError, match=f"^{name_of(call)}: row 3, feature 2 is {bad}; every value must be finite"
    ):
        CALLS[call](flow, x)


@each_call
def test_values_beyond_float32_are_named(call):
    flow = afnp.maf(D, hidden=(6,), transforms=1, dtype=np.float32)
    x = rows_of(4)
    x[2, 1] = 1e39
    with pytest.raises(ValueError, match="row 2, feature 1"):
        CALLS[call](flow, x)


def test_values_that_float32_rounds_are_fine():
    flow = afnp.maf(D, hidden=(6,), transforms=1, dtype=np.float32)
    assert np.isfinite(flow.log_prob([[1e-60, 1e18, -1.1]])).all()


LARGE = [1e10, 1e100, 1e200]


@pytest.mark.parametrize("large", LARGE)
def test_large_values_give_their_density_without_warning(flow, large, backend):
    """-inf where the logarithm itself overflows, as for a density that is 0 beyond every number."""
    log_prob = flow.log_prob([[0.1, large, 0.2], [0, 0, 0]], backend=backend)
    assert log_prob[0] < -1e15 and np.isfinite(log_prob[1])


@pytest.mark.parametrize("where", ["W0", "b0", "W1", "b1", "W2", "b2"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_that_are_no_numbers_never_give_a_number(where, activation, dtype, backend):
    """A NaN anywhere on a path to some result is an error that names the row."""
    flow = lively(afnp.made(D, hidden=(6, 6), activation=activation, dtype=dtype))
    flow.split(flow.theta)[0][where][...] = np.nan
    x = rows_of(70)
    for f in (flow.log_prob, flow.normalize):
        with pytest.raises(
            FloatingPointError, match="^row 0 of x gives a result that is not a number$"
        ):
            f(x, backend=backend)
    with pytest.raises(
        FloatingPointError, match="^row 0 of u gives a result that is not a number$"
    ):
        flow.generate(x, backend=backend)
    with pytest.raises(
        FloatingPointError, match="^row 0 of u gives a result that is not a number$"
    ):
        flow.sample(70, backend=backend)


@pytest.mark.parametrize("place", [0, 69, 199])
def test_the_row_without_a_result_is_named(place, backend, monkeypatch):
    """Infinity minus infinity, in one row, in whichever batch it lies."""
    monkeypatch.setattr("afnp.model.BATCH_NUMBERS", 1)
    flow = afnp.made(2, hidden=(2,))
    p = flow.split(flow.theta)[0]
    p["W0"][:, 0], p["W1"][2] = 1e10, [1e10, -1e10]
    x = np.ones((200, 2))
    x[place] = 1e300
    with pytest.raises(
        FloatingPointError, match=f"^row {place} of x gives a result that is not a number$"
    ):
        flow.log_prob(x, backend=backend)


def test_a_loss_that_is_no_number_is_an_error(flow):
    flow.theta[:] = np.nan
    with pytest.raises(FloatingPointError, match="not a number"):
        flow.loss_and_grad(rows_of())


# Empty batches


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("context", [0, C])
def test_an_empty_batch_gives_empty_results(context, dtype, backend):
    layers = [
        Standardize(np.zeros(D), np.ones(D)),
        Dequantize(D, 4),
        Logit(D),
        masked(D, (6,), context=context),
    ]
    flow = Flow(layers, context=context, dtype=dtype)
    x = np.empty((0, D))
    for c in [None] if not context else [np.empty((0, C)), np.zeros((1, C))]:
        results = [*flow.normalize(x, c, backend=backend), *flow.generate(x, c, backend=backend)]
        results += [
            *flow.generate(x, c, method="naive"),
            flow.sample(0, context=c, backend=backend),
        ]
        results += [flow.log_prob(x, c, backend=backend)]
        assert [r.shape for r in results] == [
            (0, D),
            (0,),
            (0, D),
            (0,),
            (0, D),
            (0,),
            (0, D),
            (0,),
        ]
        # data that are preprocessed are float64: seconds since 1970 have no digits to lose
        data = {2, 4, 6}
        assert {r.dtype for k, r in enumerate(results) if k not in data} == {np.dtype(dtype)}
        assert {results[k].dtype for k in data} == {np.dtype(np.float64)}


def test_an_empty_batch_has_no_mean_loss(flow):
    with pytest.raises(ValueError, match="x: expected at least one row, got an empty batch"):
        flow.loss_and_grad(np.empty((0, D)))


def test_an_empty_list_has_no_width(flow):
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        flow.log_prob([])


# Memory layouts

LAYOUTS = {
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), dtype=x.dtype, offset=1).reshape(
        x.shape
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout_is_taken_and_left_unchanged(layout, dtype, backend):
    flow = lively(afnp.maf(D, (6, 6), 2, order=[1, 2, 0], context=C, dtype=dtype))
    x, context = (LAYOUTS[layout](rows_of(70, width).astype(dtype)) for width in (D, C))
    for values in (x, context):
        values.flags.writeable = False
    plain, plain_context = np.array(x, order="C"), np.array(context, order="C")
    for a, b in [
        (
            flow.log_prob(x, context, backend=backend),
            flow.log_prob(plain, plain_context, backend=backend),
        ),
        (
            flow.normalize(x, context, backend=backend),
            flow.normalize(plain, plain_context, backend=backend),
        ),
        (
            flow.generate(x, context, backend=backend),
            flow.generate(plain, plain_context, backend=backend),
        ),
        (flow.generate(x, context, "naive"), flow.generate(plain, plain_context, "naive")),
        (
            flow.loss_and_grad(x, context, backend=backend)[1],
            flow.loss_and_grad(plain, plain_context, backend=backend)[1],
        ),
    ]:
        for one, other in zip(
            a if isinstance(a, tuple) else [a], b if isinstance(b, tuple) else [b], strict=True
        ):
            assert norm_error(one, other) < (1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(x, plain)
    np.testing.assert_array_equal(context, plain_context)


def test_results_are_the_callers_own(backend):
    """Even of a flow without any transform that would copy:
    writing into a result leaves the input alone."""
    flow = lively(afnp.maf(D, (6,), 1))
    x = rows_of()
    kept = x.copy()
    for results in (flow.normalize(x, backend=backend), flow.generate(x, backend=backend)):
        for result in results:
            assert result.flags.writeable and not np.shares_memory(result, x)
            result[:] = 0
    np.testing.assert_array_equal(x, kept)


# Context


@each_call
def test_a_context_is_missing(conditional, call):
    with pytest.raises(ValueError, match="^context: expected 2 columns, got none$"):
        CALLS[call](conditional, rows_of())


@each_call
def test_a_context_is_superfluous(flow, call):
    with pytest.raises(ValueError, match=r"^context: expected no columns, got shape \(4, 2\)$"):
        CALLS[call](flow, rows_of(), rows_of(width=C))


@each_call
def test_the_context_has_a_wrong_shape(conditional, call):
    with pytest.raises(ValueError, match="^context: expected 2 columns, got 3$"):
        CALLS[call](conditional, rows_of(), rows_of(width=3))
    with pytest.raises(ValueError, match=r"^context: expected 4 rows \(or 1\), got 5$"):
        CALLS[call](conditional, rows_of(), rows_of(5, C))
    with pytest.raises(ValueError, match=r"^context: expected 4 rows \(or 1\), got 0$"):
        CALLS[call](conditional, rows_of(), np.empty((0, C)))
    with pytest.raises(
        ValueError, match=r"^context: expected a two-dimensional array \(N, 2\), got shape \(4,\)"
    ):
        CALLS[call](conditional, rows_of(), np.zeros(4))


@each_call
def test_the_context_has_wrong_values(conditional, call):
    context = rows_of(width=C)
    context[2, 1] = np.nan
    with pytest.raises(ValueError, match="^context: row 2, feature 1 is nan"):
        CALLS[call](conditional, rows_of(), context)
    with pytest.raises(ValueError, match="^context: expected real numbers, got dtype complex128$"):
        CALLS[call](conditional, rows_of(), context.astype(complex))


@each_call
def test_one_row_of_context_serves_all(conditional, call):
    context = rows_of(1, C)
    repeated = np.repeat(context, 4, axis=0)
    assert equal(
        CALLS[call](conditional, rows_of(), context), CALLS[call](conditional, rows_of(), repeated)
    )
    assert equal(
        CALLS[call](conditional, rows_of(), context.tolist()),
        CALLS[call](conditional, rows_of(), repeated),
    )


def test_samples_need_the_right_context(flow, conditional):
    with pytest.raises(ValueError, match="^context: expected 2 columns, got none$"):
        conditional.sample(3)
    with pytest.raises(ValueError, match=r"^context: expected 3 rows \(or 1\), got 4; each=True"):
        conditional.sample(3, context=rows_of(4, C))
    with pytest.raises(ValueError, match="^context: expected no columns"):
        flow.sample(3, context=rows_of(3, C))


# Names and numbers in calls


def test_unknown_method_and_backend(flow):
    for call in (flow.generate, lambda x, **kwargs: flow.sample(2, **kwargs)):
        with pytest.raises(
            ValueError, match="^method: expected one of 'substitution', .*, got 'secant'$"
        ):
            call(rows_of(), method="secant")
        with pytest.raises(
            ValueError, match="^backend: expected one of 'auto', 'numpy'.*, got 'abacus'$"
        ):
            call(rows_of(), backend="abacus")
    for call in (flow.log_prob, flow.normalize, flow.loss_and_grad):
        with pytest.raises(
            ValueError, match="^backend: expected one of 'auto', 'numpy'.*, got 'abacus'$"
        ):
            call(rows_of(), backend="abacus")


def test_the_definition_is_never_compiled(flow):
    with pytest.raises(
        ValueError, match="^backend: method 'naive' is the NumPy definition; got backend 'numba'$"
    ):
        flow.generate(rows_of(), method="naive", backend="numba")


def test_a_number_of_samples_is_not_negative(flow):
    with pytest.raises(ValueError, match="^n: expected an integer of at least 0, got -1$"):
        flow.sample(-1)
    assert flow.sample(np.int64(2)).shape == (2, D)


@pytest.mark.parametrize("rng", [-1, "seed", 1.5])
def test_a_seed_that_is_none(flow, rng):
    with pytest.raises((TypeError, ValueError)):
        flow.sample(2, rng=rng)


@pytest.mark.parametrize("shape", [(0,), (3,), (1, 1)])
def test_parameters_of_the_wrong_shape(flow, shape):
    P = flow.theta.size
    with pytest.raises(
        ValueError, match=rf"^theta: expected shape \({P},\), got {re.escape(str(shape))}, float64$"
    ):
        flow.theta = np.zeros(shape)


def test_a_scalar_is_no_parameter_vector(flow):
    with pytest.raises(ValueError, match=r"^theta: expected shape \(\d+,\), got \(\), float64$"):
        flow.theta = 0.0


# Building


BUILD = [
    (dict(features=0), "^features: expected an integer of at least 1, got 0$"),
    (dict(features=-2), "^features: expected an integer of at least 1, got -2$"),
    (dict(transforms=0), "^transforms: expected an integer of at least 1, got 0$"),
    (dict(context=-1), "^context: expected an integer of at least 0, got -1$"),
    (dict(hidden=(6, 0)), r"^hidden: expected an integer of at least 1, got 0$"),
    (dict(hidden=(6, 6), residual=True), "residual=True needs an odd number of equal widths"),
    (dict(activation="gelu"), r"^activation: expected one of .*'relu', 'tanh', got 'gelu'$"),
    (dict(univariate="cubic"), r"^univariate: expected one of .*'affine'.*, got 'cubic'$"),
    (
        dict(order="sideways"),
        "^order: expected 'natural', 'reverse', 'random' or a permutation, got 'sideways'$",
    ),
    (dict(order=[0, 1]), r"^order: expected a permutation of 0\.\.2, got \[0, 1\]$"),
    (dict(order=[1, 2, 3]), r"^order: expected a permutation of 0\.\.2, got \[1, 2, 3\]$"),
    (dict(order=[0, 1, 1]), r"^order: expected a permutation of 0\.\.2, got \[0, 1, 1\]$"),
    (dict(dtype=np.int64), "^dtype: expected float32 or float64, got int64$"),
    (dict(dtype=np.float16), "^dtype: expected float32 or float64, got float16$"),
    (dict(dtype=complex), "^dtype: expected float32 or float64, got complex128$"),
    (
        dict(preprocess=[Logit(4)]),
        r"^preprocess: expected transforms of 3 features, got \[4\]$",
    ),
]


@pytest.mark.parametrize("change, message", BUILD)
def test_flows_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        afnp.maf(**{"features": 3, "hidden": (6,), "transforms": 1, **change})


NO_INTEGERS = [
    (dict(features=2.5), "features"),
    (dict(transforms="2"), "transforms"),
    (dict(context=1.0), "context"),
    (dict(hidden=6), "hidden"),
    (dict(hidden=(6.0,)), "hidden"),
    (dict(hidden=None), "hidden"),
    (dict(order=None), "order"),
    (dict(order=[0.0, 1.0, 2.0]), "order"),
    (dict(order=[[0, 1, 2]]), "order"),
    (dict(dtype="single precision"), "dtype"),
    (dict(activation=["relu"]), "activation"),
]


@pytest.mark.parametrize("change, argument", NO_INTEGERS)
def test_arguments_of_the_wrong_type_are_named(change, argument):
    with pytest.raises(ValueError, match=f"^{argument}: expected"):
        afnp.maf(**{"features": 3, "hidden": (6,), "transforms": 1, **change})


def test_a_number_of_samples_is_whole(flow):
    with pytest.raises(ValueError, match="^n: expected .*, got 2.5"):
        flow.sample(2.5)


@pytest.mark.parametrize("of_layer, of_flow", [(C, 0), (0, C), (C, 1)])
def test_the_context_of_a_flow_is_that_of_its_layers(of_layer, of_flow):
    with pytest.raises(ValueError, match="context"):
        Flow([masked(D, (6,), context=of_layer)], context=of_flow)


# Options: every one of every constructor

SHARED = {
    "features": [0, -1, 2.0, "3", None, True, [3]],
    "context": [-1, 1.5, "2", None, True],
    "seed": [-1, 1.5, "a", None, True],
    "dtype": ["f2", int, "x", None, "float16"],
    "preprocess": ["logit", 5, [3], [None], {"a": 1}, [Standardize([0.0], [1.0])]],
    "options": [5, "x", [1], {"q": 1}, {1: 2}],
    "between": [5, None, "x", ["x"], [3]],
    "base": ["normal", 5, object, afnp.bases.StandardNormal(7)],
}
NETWORK = {
    "hidden": [5, None, "ab", [2.5], [-1], [[3]], [True]],
    "activation": [None, "x", 5, ["relu"]],
    "residual": ["yes", None, 2],
}
STACK = {"transforms": [0, -1, 2.5, "2", None, True]}
TAU = {"univariate": [None, "x", 5, ["affine"], object]}
ORDER = {"order": [None, "x", 5, [0, 1], [0, 0, 1], [[0, 1, 2]], [0.5, 1, 2]]}
SPLIT = {"split": [None, "x", 5, [True], [0, 1, 0], [True] * 3]}
SPLINE = {
    "bins": [1, 2.5, "8", None, 10**4],
    "bound": [0, -1, "4", np.nan, np.inf],
    "coupling": ["x", 2, None],
    "circular": ["x", 2, None],
    "univariate": ["affine"],
}
TRANSFORMER = {
    "patch": [0, 2, 2.5, "x", None],
    "width": [0, 2.5, "x", None, 3],
    "heads": [0, 2.5, "x", None, 3],
    "blocks": [-1, 2.5, "x", None],
}
CONVOLUTION = {
    "channels": [0, 2.5, "x", None],
    "layers": [-1, 2.5, "x", None],
    "cycle": [0, 2.5, "x", None],
    "order": ["random", None, 5, [0, 1, 2]],
    "activation": ["x", None, 5],
}
SMALL = {"features": 3, "hidden": (4,)}
GRAPH = {"structure": ["x", 5, np.eye(3), np.zeros((2, 3)), [[0, 0.5, 0]] * 3, [[1], [2, 3]]]}
OPTIONS = {
    "maf": (SMALL, SHARED | NETWORK | STACK | TAU | ORDER | GRAPH),
    "made": (SMALL, SHARED | NETWORK | TAU | ORDER | GRAPH),
    "iaf": (SMALL, SHARED | NETWORK | STACK | TAU | ORDER),
    "realnvp": (SMALL, SHARED | NETWORK | STACK | TAU | SPLIT),
    "nice": (SMALL, SHARED | NETWORK | STACK | SPLIT),
    "nsf": (SMALL, SHARED | NETWORK | STACK | ORDER | SPLINE | GRAPH),
    "maf_mog": (
        SMALL,
        SHARED | NETWORK | STACK | ORDER | GRAPH | {"components": [0, 2.5, "x", None], **TAU},
    ),
    "tarflow": (
        {"features": 3, "width": 4, "heads": 2, "blocks": 1},
        SHARED | STACK | TAU | ORDER | TRANSFORMER,
    ),
    "wavenet_flow": (
        {"features": 3, "channels": 4, "layers": 2},
        SHARED | STACK | TAU | CONVOLUTION,
    ),
}
DISCRETE = {
    **{name: SHARED[name] for name in ("features", "context", "seed", "dtype")},
    "levels": [1, 0, 2.5, "x", None, True],
    "theta": ["x", rows_of()],
}
MADE = {"order": [None, "x", 5, [0, 1], [0, 0, 1]]}
ENSEMBLE = {"orders": [None, "x", 0, 2.5, True]}
OPTIONS["DiscreteMADE"] = (SMALL, DISCRETE | NETWORK | MADE)
OPTIONS["OrderEnsemble"] = (SMALL, DISCRETE | NETWORK | ENSEMBLE)
CHANGES = [(kind, name) for kind, (_, wrong) in OPTIONS.items() for name in wrong]


@pytest.mark.parametrize("kind, name", CHANGES)
def test_every_wrong_option_of_every_constructor_is_named(kind, name):
    right, wrong = OPTIONS[kind]
    for value in wrong[name]:
        with pytest.raises(ValueError, match=rf"^{name}\b.*: .*"):
            getattr(afnp, kind)(**{**right, name: value})


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_options_of_that_test_are_those_of_the_constructors(kind):
    """An option that is added must be tried too; ``kwargs`` stand for those of maf."""
    named = set(inspect.signature(getattr(afnp, kind)).parameters) - {"kwargs"}
    assert named <= set(OPTIONS[kind][1])


ENERGY = lambda x: (np.square(x).sum(axis=1), 2 * x)  # noqa: E731
RUNS = {
    "fit with validation": (
        lambda flow, **change: afnp.fit(
            afnp.made(D, hidden=(4,), context=C),
            **{
                "x_train": rows_of(),
                "x_val": rows_of(),
                "context": rows_of(width=C),
                "context_val": rows_of(width=C),
                "progress": False,
                **change,
            },
        ),
        {"context_val": [None, "x", 5, rows_of(7, C), [[1], [2, 3]], rows_of(width=1)]},
    ),
    "fit_energy": (
        lambda flow, **change: afnp.fit_energy(
            flow, **{"energy_and_gradient": ENERGY, "progress": False, **change}
        ),
        {
            "energy_and_gradient": [None, 5, "x", lambda x: x],
            "epochs": [0, 2.5, None, True],
            "steps": [0, 2.5, None],
            "batch_size": [0, 10.0, None],
            "temperature": ["x", 5],
            "seed": [-1, 1.5, None],
        },
    ),
    "importance_sample": (
        lambda flow, **change: afnp.train.importance_sample(
            flow, **{"energy_and_gradient": ENERGY, "n": 5, **change}
        ),
        {"energy_and_gradient": [None, 5], "n": [0, 2.5, None, 10**18], "rng": [-1, "a", None]},
    ),
    "preprocessing": (
        lambda flow, **change: afnp.preprocessing(rows_of(), **change),
        {"levels": ["x", 1, 2.5, True, [3]], "bounds": [5, "x", {7: (0, 1)}], "weights": ["x", 5]},
    ),
    "Standardize": (
        lambda flow, **change: Standardize(**{"mean": [0.0], "std": [1.0], **change}),
        {"mean": ["x", None, {}, [[1], [2, 3]]], "std": ["x", None, {}]},
    ),
    "BatchNorm": (
        lambda flow, **change: BatchNorm(2, **change),
        {"momentum": [0, 1.5, None, "x", True], "epsilon": [0, 1, None, "x"]},
    ),
    "estimate": (
        lambda flow, **change: afnp.marginals.estimate(flow, **{"x": rows_of(), **change}),
        {"x": ["x", [["a", "b", "c"]], [[1], [2, 3]]], "draws": [1, 2.5, None]},
    ),
    "sample": (
        lambda flow, n=2, **change: flow.sample(n, **change),
        {
            "n": [-1, 2.5, "3", None, True, 10**18, 10**30],
            "rng": [-1, 1.5, "a", True, object()],
            "method": ["x", None, 5, ["naive"]],
            "backend": ["x", None, 5],
            "each": [True, 1, None],
        },
    ),
    "generate": (
        lambda flow, **change: flow.generate(rows_of(), **change),
        {"method": ["x", None, 5, ["naive"]], "backend": ["x", None, 5]},
    ),
    "log_prob": (
        lambda flow, **change: flow.log_prob(rows_of(), **change),
        {"backend": ["x", None, 5, "cuda"]},
    ),
    "fit": (
        lambda flow, **change: afnp.fit(
            flow, **{"x_train": rows_of(), "progress": False, **change}
        ),
        {
            "x_train": [None, "x", rows_of(0), rows_of(width=2)],
            "x_val": ["x", rows_of(0), rows_of(width=2)],
            "context": ["x", rows_of()],
            "context_val": ["x", rows_of()],
            "epochs": [0, -1, 2.5, "3", None, True],
            "batch_size": [0, -1, 10.0, "3", None, True],
            "learning_rate": [0, -1, np.nan, np.inf, "x", None, True],
            "schedule": ["linear", None, 5],
            "weight_decay": [-1, np.nan, np.inf, "x", None],
            "clip": [0, -1, np.nan, "x", None],
            "patience": [0, -1, 2.5, "x", 3],
            "seed": [-1, 1.5, "x", None, True],
            "progress": ["x", None, 2],
            "checkpoint": [5, rows_of()],
            "resume": ["x", None, 2, True],
        },
    ),
}


@pytest.mark.parametrize("call, name", [(c, name) for c, (_, w) in RUNS.items() for name in w])
def test_every_wrong_option_of_a_call_is_named(call, name, flow):
    run, wrong = RUNS[call]
    for value in wrong[name]:
        with pytest.raises(ValueError, match=rf"^{name}\b"):
            run(flow, **{name: value})


def test_several_samples_for_each_of_several_contexts(conditional):
    contexts = rows_of(4, C)
    x = conditional.sample(5, rng=3, context=contexts, each=True)
    assert x.shape == (4, 5, D)
    flat = conditional.sample(20, rng=3, context=np.repeat(contexts, 5, axis=0))
    np.testing.assert_array_equal(x.reshape(20, D), flat)
    many = conditional.sample(4000, context=contexts[:2], each=True)
    for row, of_row in zip(contexts[:2], many, strict=True):
        u = conditional.normalize(of_row, row[None])[0]
        assert np.abs(u.mean(axis=0)).max() < 0.08 and np.abs(u.std(axis=0) - 1).max() < 0.06
    assert conditional.sample(0, context=contexts, each=True).shape == (4, 0, D)
    with pytest.raises(ValueError, match="^context: expected 2 columns, got 3"):
        conditional.sample(5, context=rows_of(4, 3), each=True)


# Masks, gaps, and lists


@pytest.mark.parametrize("x", ["array", "rows", "list"])
def test_masked_values_are_refused_with_their_place(flow, conditional, x):
    masked = np.ma.masked_greater(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]), 2)
    given = {"array": masked, "rows": [masked[0], masked[1]], "list": list(masked)}[x]
    place = r"\(row, feature\) \(1, 2\)" if x == "array" else "row 1, feature 2"
    with pytest.raises(
        ValueError, match=f"^x: {place} is masked; missing values are not supported"
    ):
        flow.log_prob(given)
    with pytest.raises(ValueError, match="^context: .* is masked"):
        conditional.log_prob(rows_of(2), np.ma.masked_invalid([[0.0, np.nan], [1.0, 1.0]]))
    unmasked = np.ma.masked_array(rows_of(2))
    np.testing.assert_array_equal(flow.log_prob(unmasked), flow.log_prob(rows_of(2)))


def test_masked_values_are_refused_wherever_numbers_go_in(flow):
    """What lies under a mask was taken for a value."""
    x = np.ma.masked_greater(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]), 2)
    line = np.ma.masked_greater(np.arange(flow.theta.size), 2)

    def energy(x):
        return np.zeros(len(x)), np.ma.masked_array(x, mask=True)

    def same(x):
        return x, np.zeros(len(x))

    calls = {
        "theta": lambda: setattr(flow, "theta", line),
        "log_weights": lambda: afnp.train.effective_sample_size(line),
        "energy_and_gradient: gradients": lambda: afnp.fit_energy(flow, energy, progress=False),
        "x": lambda: afnp.marginals.estimate(flow, x, draws=10),
        "data": lambda: afnp.verify.check_flow(normalize=same, features=3, data=x),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name}: .* is masked; missing values"):
            call()


@pytest.mark.parametrize("n", [10**18, 10**30])
def test_more_samples_than_memory_holds_name_n(flow, conditional, n):
    models = [flow, afnp.FlowEnsemble([flow, flow]), afnp.DiscreteMADE(3, hidden=(4,))]
    for model in models:
        with pytest.raises(ValueError, match=f"^n: {n} rows of 3 features do not fit into memory"):
            model.sample(n)
    with pytest.raises(ValueError, match=f"^n: {n} rows"):
        conditional.sample(n, context=rows_of(2, C), each=True)


@pytest.mark.parametrize("rng", [-1, 1.5, "a", None, True])
def test_a_seed_of_a_discrete_model_that_is_none(rng):
    with pytest.raises(ValueError, match="^rng: expected a seed"):
        afnp.DiscreteMADE(3, hidden=(4,)).sample(2, rng)


@pytest.mark.parametrize(
    "x, said",
    [
        ([[1.0, 2.0, 3.0], [1.0, 2.0]], "x: row 1 has 2 values, row 0 has 3; expected rows of one"),
        ([[1.0, 2.0, 3.0], 4.0], "x: row 1 has 1 values, row 0 has 3"),
        ([[[1.0], 2.0, 3.0], [4.0, 5.0, 6.0]], r"x: row 0 is \[\[1.0\], 2.0, 3.0\]; expected num"),
        ([[1.0, 2.0, 3.0], [4.0, [5.0], 6.0]], r"x: row 1 is \[4.0, \[5.0\], 6.0\]; expected num"),
        ([[1.0, 2.0], [[1.0], [2.0]]], r"x: row 1 is \[\[1.0\], \[2.0\]\]; expected numbers"),
    ],
)
def test_ragged_rows_are_named(flow, x, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        flow.log_prob(x)


FAR = {np.float32: [1e3, 1e10, 1e18, 1e30], np.float64: [1e3, 1e10, 1e100, 1e300]}


@pytest.mark.filterwarnings("ignore::afnp.advice.DataWarning")
@pytest.mark.parametrize("univariate", ["affine", "spline", "logistic_mixture", "gaussian_mixture"])
@pytest.mark.parametrize("dtype", FAR)
def test_nothing_far_out_warns_of_its_arithmetic(univariate, dtype, backend):
    """Results or a FloatingPointError that names the row.

    A warning of NumPy's would be an error here.
    """
    flow = lively(afnp.maf(2, (6,), 2, univariate=univariate, dtype=dtype, between="actnorm"))
    for far in FAR[dtype]:
        x = np.array([[0.1, 0.2], [far, 0.3], [0.2, -far], [-far, -far]])
        for call in ("log_prob", "normalize", "generate", "loss_and_grad"):
            try:
                getattr(flow, call)(x, backend=backend)
            except FloatingPointError as error:
                assert "row" in str(error) or "gradient" in str(error)
        try:
            afnp.fit(flow, np.repeat(x, 5, axis=0), epochs=1, progress=False)
        except FloatingPointError as error:
            assert "the loss is not finite" in str(error)


@pytest.mark.filterwarnings("ignore::afnp.advice.DataWarning")
def test_a_gradient_beyond_float32_names_its_row(backend):
    """The density is finite still, but a weight's gradient is a product of two large numbers."""
    flow = afnp.made(2, hidden=(1,), dtype=np.float32)
    p = flow.parameters
    p["0.W0"][:], p["0.W1"][2:, 0] = 1e-8, [1e8, 0]  # mu_2 = 1e8 relu(1e-8 x_1), alpha_2 = 0
    x = rows_of(70, 2)
    x[41] = [1e19, 0.0]
    assert np.isfinite(flow.log_prob(x)).all()
    with pytest.raises(
        FloatingPointError, match="^the gradient of row 41 of x is not finite in float32"
    ):
        flow.loss_and_grad(x, backend=backend)
    theta = flow.theta.copy()
    with pytest.raises(FloatingPointError, match="its gradient, training row 41; the last good"):
        afnp.fit(flow, x, epochs=1, batch_size=70, progress=False)
    np.testing.assert_array_equal(flow.theta, theta)


def test_a_long_gradient_is_no_overflow():
    """Its squares are beyond float32, the numbers themselves are not:
    it is clipped like any other."""
    flow = afnp.maf(D, hidden=(6,), transforms=1, dtype=np.float32)
    x = rows_of(70)
    x[41] = 3e10
    assert np.isfinite(flow.loss_and_grad(x)[1]).all()
    afnp.fit(flow, x, epochs=1, batch_size=70, progress=False)
    assert np.isfinite(flow.theta).all()


# Preprocessing


@pytest.mark.parametrize(
    "mean, std, message",
    [
        ([0, 0], [1, 0], r"feature 1: expected a finite mean and std > 0, got 0\.0, 0\.0"),
        ([0, 0], [-1, 1], r"feature 0: expected a finite mean and std > 0, got 0\.0, -1\.0"),
        ([0, np.nan], [1, 1], "feature 1: expected a finite mean and std > 0, got nan"),
        ([0, 0], [np.inf, 1], "feature 0: expected a finite mean and std > 0, got 0.0, inf"),
        ([0, 0], [1], r"mean and std: expected two vectors of one length, got \(2,\) and \(1,\)"),
        (0, 1, r"mean and std: expected two vectors of one length, got \(\) and \(\)"),
    ],
)
def test_standardizing_constants_that_make_no_sense(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Standardize(mean, std)


@pytest.mark.parametrize("alpha", [0, 0.5, -1, np.nan])
def test_logit_needs_a_margin(alpha):
    with pytest.raises(ValueError, match=r"alpha: expected a number in \(0, 0\.5\), got"):
        Logit(D, alpha)


@pytest.mark.parametrize("levels", [1, 0, -3])
def test_grey_levels_are_at_least_two(levels):
    with pytest.raises(
        ValueError, match=f"levels: expected an integer of at least 2, got {levels}"
    ):
        Dequantize(D, levels)


def test_training_rows_that_are_not_finite_name_their_feature():
    with pytest.raises(ValueError, match="feature 1"):
        afnp.preprocessing([[1.0, np.nan, 2.0], [0.0, 1.0, 2.0]])


@pytest.mark.parametrize("bad", [-1.0, 255.0])
def test_grey_levels_outside_their_range_are_refused(bad):
    """Eight-bit images announced as levels=17 would give a flow whose every density is 0."""
    x = np.random.default_rng(0).uniform(0, 17, (20, D))
    x[7, 2] = bad
    with pytest.raises(ValueError, match="row 7, feature 2"):
        afnp.preprocessing(x, levels=17)


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros(4), r"x: expected a two-dimensional array .*, got shape \(4,\)"),
        (np.empty((0, 3)), "x: expected at least one row"),
        ([["a", "b"]], "x: expected real numbers, got dtype <U1"),
        ([[1.0, np.nan], [0.0, 1.0]], "x: row 0, feature 1 is nan"),
    ],
)
@pytest.mark.parametrize("levels", [None, 17])
def test_training_rows_are_checked_like_any_rows(x, message, levels):
    with pytest.raises(ValueError, match=message):
        afnp.preprocessing(x, levels=levels)


# Tables with names


@pytest.fixture
def table():
    pandas = pytest.importorskip("pandas", reason="NOT TESTED: pip install pandas")
    return pandas.DataFrame(rows_of(40), columns=["mass", "age", "flux"])


@pytest.fixture
def known(flow):
    flow.columns = ("mass", "age", "flux")
    return flow


@each_call
def test_columns_are_found_by_name(known, table, call):
    x = table.to_numpy()
    if call.startswith("generate"):  # noise has no names
        assert equal(CALLS[call](known, table.iloc[:, ::-1]), CALLS[call](known, x[:, ::-1]))
        return
    assert equal(CALLS[call](known, table[["flux", "mass", "age"]]), CALLS[call](known, x))
    others = {
        "lacks 'flux' and has also 'size'": table.rename(columns={"flux": "size"}),
        "the table has also 'size'": table.assign(size=1.0),
        "the table lacks 'age'": table.drop(columns="age"),
        "has one of them twice": table.iloc[:, [0, 1, 2, 2]],
        "a single row is a table too: ": table.iloc[0],
    }
    for said, other in others.items():
        with pytest.raises(ValueError, match=f"^x: expected the columns 'mass', 'age', .*{said}"):
            CALLS[call](known, other)


@pytest.mark.parametrize(
    "column, said",
    [
        (["a"] * 40, "column 'age': expected real numbers, got dtype (object|str)"),
        ([None, *[1.0] * 39], "row 0, column 'age' is missing"),
        ([1j] * 40, "column 'age': expected real numbers, got dtype complex128"),
    ],
)
def test_a_column_that_is_no_number_is_named(flow, table, column, said):
    with pytest.raises(ValueError, match=f"^x: {said}"):
        flow.log_prob(table.assign(age=column))


@pytest.mark.parametrize("dtype", ["Int64", "Float32", "boolean", "bool", "int8", "float16"])
def test_nullable_columns_are_numbers_where_nothing_is_missing(flow, table, dtype):
    pandas = pytest.importorskip("pandas", reason="NOT TESTED: pip install pandas")
    ages = pandas.array([0, 1] * 20, dtype=dtype)
    plain = table.assign(age=[0.0, 1.0] * 20).to_numpy()
    assert equal(flow.log_prob(table.assign(age=ages)), flow.log_prob(plain))
    if dtype[0].isupper() or dtype == "boolean":
        gap = pandas.Series(ages)
        gap[7] = pandas.NA
        with pytest.raises(ValueError, match="^x: row 7, column 'age' is missing"):
            flow.log_prob(table.assign(age=gap))


def test_a_series_is_one_column_of_context(table):
    flow = lively(afnp.maf(2, hidden=(6,), transforms=1, context=1))
    x, year = table[["mass", "age"]], table["flux"]
    assert equal(flow.log_prob(x, year), flow.log_prob(x.to_numpy(), year.to_numpy()[:, None]))


def test_fit_learns_the_names_and_files_keep_them(tmp_path, table):
    flow = afnp.maf(2, hidden=(6,), transforms=1, context=1)
    x, year = table[["mass", "age"]], table[["flux"]]
    flow.standardize_context(year)
    afnp.fit(flow, x, x, context=year, context_val=year, epochs=1, progress=False)
    assert flow.columns == ("mass", "age") and flow.context_columns == ("flux",)
    afnp.save(flow, tmp_path / "m.afnp")
    again = afnp.load(tmp_path / "m.afnp")
    assert again.columns == flow.columns and again.context_columns == flow.context_columns
    assert equal(again.log_prob(x[["age", "mass"]], year), flow.log_prob(x, year))
    with pytest.raises(
        ValueError, match="^context: expected the columns 'flux'; .* has also 'age'"
    ):
        again.log_prob(x, table[["age"]])
    with pytest.raises(ValueError, match="^x_train: expected the columns"):
        afnp.fit(again, table[["mass", "flux"]], context=year, epochs=1, progress=False)


@pytest.mark.parametrize("names", [["a"], ["a", "a", "b"], "abc", [1, 2, 3], ["a", "b", "c", "d"]])
def test_names_that_are_none_are_refused(flow, names):
    with pytest.raises(ValueError, match="^columns: expected 3 different names of columns, got"):
        flow.columns = names


# Contexts in their own units


def test_a_standardized_context_is_the_same_flow_in_other_units(backend, tmp_path):
    """With weights kept, c in units of its spread gives what (c - m) / s gave before."""
    flow = lively(afnp.maf(D, hidden=(6,), transforms=2, context=C))
    x, c = rows_of(70), rows_of(70, C) * [8.0, 0.01] + [2005.0, 3.0]
    z = (c - c.mean(axis=0)) / c.std(axis=0)
    plain = [flow.log_prob(x, z), *flow.generate(x, z), flow.loss_and_grad(x, z)[1]]
    flow.standardize_context(c)
    afnp.save(flow, tmp_path / "m.afnp")
    for f in (flow, afnp.load(tmp_path / "m.afnp")):
        given = {"context": c, "backend": backend}
        scaled = [f.log_prob(x, **given), *f.generate(x, **given), f.loss_and_grad(x, **given)[1]]
        for a, b in zip(plain, scaled, strict=True):
            assert norm_error(a, b) < 1e-11
        assert equal(
            f.sample(2, context=c[:3], each=True)[1],
            f.sample(6, context=np.repeat(c[:3], 2, axis=0))[2:4],
        )


def test_seconds_since_1970_survive_float32():
    flow = lively(afnp.maf(2, hidden=(6,), transforms=1, context=1, dtype=np.float32))
    seconds = 1.7e9 + np.arange(60.0)[:, None]
    flow.standardize_context(seconds)
    assert len(np.unique(flow.log_prob(np.zeros((60, 2)), seconds))) == 60


@pytest.mark.parametrize("context", [None, [[]], np.zeros((0, C)), np.zeros((4, 3)), [[np.nan, 0]]])
def test_a_context_without_a_spread_is_refused(conditional, flow, context):
    with pytest.raises(ValueError, match="^context: "):
        conditional.standardize_context(context)
    with pytest.raises(ValueError, match="^context: "):
        flow.standardize_context(np.zeros((4, 0)))
