"""What models share: parameters by name, one plan a call, and engines that fail into NumPy."""

import copy
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp import model as models
from afnp.discrete import DiscreteMADE
from afnp.model import BatchGradient
from afnp.transforms import Standardize, convolutional
from afnp.univariate import UNIVARIATES, Affine

# Parameters


def test_parameters_are_readable_and_writable_by_name():
    flow = afnp.maf(2, hidden=(4,), transforms=2, between="actnorm")
    names = [f"{k}.{name}" for k in (0, 2) for name in ("W0", "b0", "W1", "b1")]
    assert list(flow.parameters) == [*names[:4], "1.m", "1.s", *names[4:]]
    assert sum(view.size for view in flow.parameters.values()) == flow.theta.size
    flow.parameters["1.m"] = [1.0, 2.0]
    assert flow.split(flow.theta)[1]["m"].tolist() == [1.0, 2.0]
    flow.parameters["0.b0"][:] = 3.0
    assert (flow.split(flow.theta)[0]["b0"] == 3).all()
    assert "0.W0" in flow.parameters and "0.W9" not in flow.parameters
    assert "Parameters of 10 arrays" in repr(flow.parameters)


@pytest.mark.parametrize(
    "name, values, error, words",
    [
        ("0.W9", 0.0, KeyError, "expected one of '0.W0'"),
        ("0.b0", [1.0], ValueError, r"^0.b0: expected real numbers of shape \(4,\), got \(1,\)"),
        ("0.b0", ["a"] * 4, ValueError, "^0.b0: expected real numbers"),
        ("0.b0", [1j] * 4, ValueError, "^0.b0: expected real numbers"),
    ],
)
def test_wrong_names_and_shapes_are_refused(name, values, error, words):
    with pytest.raises(error, match=words):
        afnp.made(2, hidden=(4,)).parameters[name] = values


def test_a_base_and_a_discrete_model_have_names_too():
    base = (
        afnp.bases.MixtureOfGaussians(2, 3) if hasattr(afnp.bases, "MixtureOfGaussians") else None
    )
    flow = afnp.made(2, hidden=(4,), base=base)
    if base is not None:
        assert any(name.startswith("base.") for name in flow.parameters)
    model = DiscreteMADE(3, hidden=(4,))
    model.parameters["b1"] = [1.0, 2.0, 3.0]
    assert model.theta[-3:].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_parameters_of_its_own(copied):
    flow = afnp.made(2, hidden=(4,))
    flow.log_prob(np.zeros((1, 2)))
    twin = copied(flow)
    twin.parameters["0.b1"] = [1.0, 2.0, 3.0, 4.0]
    assert not flow.parameters["0.b1"].any()
    assert (twin.log_prob(np.zeros((1, 2))) != flow.log_prob(np.zeros((1, 2)))).all()


# Plans


def test_auto_takes_compiled_code_for_small_work_once_it_is_loaded(monkeypatch):
    pytest.importorskip("numba")
    flow = lively(afnp.maf(3, hidden=(8,), transforms=2, dtype=np.float32))
    x = np.zeros((4, 3), dtype=np.float32)
    from afnp.compiled import engine

    monkeypatch.setattr(engine, "LOADED", set())
    assert flow.plan("auto", 4, "evaluate").engine == "numpy"
    flow.log_prob(x, backend="numba")
    assert flow.plan("auto", 4, "evaluate").engine == "numba"
    assert flow.plan("auto", 40, "evaluate").engine == "numpy"  # tiles are other code
    assert flow.plan("auto", 4, "generate").engine == "numpy"
    assert flow.plan("auto", 4).engine == "numpy"  # by size alone
    assert norm_error(flow.log_prob(x), flow.log_prob(x, backend="numpy")) < 1e-5
    assert BatchGradient(flow, 4).plan.engine == "numpy"
    assert afnp.maf(3, hidden=(8,)).plan("auto", 4, "evaluate").engine == "numpy"  # float64


def test_auto_takes_compiled_code_for_small_work_that_is_asked_for_again_and_again(monkeypatch):
    """NumPy's calls have taken as long by then as loading it; each kind and model counts alone."""
    pytest.importorskip("numba")
    from afnp.compiled import engine

    flow = lively(afnp.maf(3, hidden=(8,), transforms=2, dtype=np.float32))
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    monkeypatch.setattr(models, "SMALL_CALLS", 3)
    monkeypatch.setattr(engine, "LOADED", set())
    assert {flow.plan("auto", 2, "evaluate").engine for _ in range(9)} == {"numpy"}  # none is used
    flow.log_prob(np.tile(x, (20, 1)), backend="numba")
    results = [flow.log_prob(x) for _ in range(3)]
    assert flow.plan("auto", 2, "generate").engine == "numpy"
    assert pickle.loads(pickle.dumps(flow)).plan("auto", 2, "evaluate").engine == "numpy"
    assert flow.plan("auto", 2, "evaluate").engine == "numba"
    assert {flow.plan("auto", 2).engine for _ in range(9)} == {"numpy"}  # by size alone
    results.append(flow.log_prob(x))
    assert engine.LOADED >= flow.kernels("evaluate", 2)
    for got in results:
        assert norm_error(got, flow.log_prob(x, backend="numpy")) < 1e-5


def test_what_auto_chose_falls_back_with_one_warning(monkeypatch):
    """Whatever fails: the result is NumPy's, and the second call does not try again."""
    pytest.importorskip("numba")
    flow = lively(afnp.maf(3, hidden=(8,), transforms=2))
    x = np.zeros((50, 3))
    expected = flow.log_prob(x, backend="numpy"), flow.loss_and_grad(x, backend="numpy")[1]
    monkeypatch.setattr(models, "COMPILED_FROM", 0)
    monkeypatch.setattr(models, "_unusable", [])
    from afnp.compiled import stages

    def failing(*arguments):
        raise OSError("no space for machine code")

    monkeypatch.setattr(stages.staircase, "product", failing)
    monkeypatch.setattr(stages.gradient, "product_keeping_tiles", failing)
    with pytest.raises(OSError, match="no space"):
        flow.log_prob(x, backend="numba")
    with pytest.warns(RuntimeWarning, match="not used: OSError: no space for machine code") as said:
        got = flow.log_prob(x), flow.loss_and_grad(x)[1]
    assert len(said) == 1
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    monkeypatch.setattr(models, "_unusable", [])
    rows = np.random.default_rng(0).standard_normal((50, 3))
    with pytest.warns(RuntimeWarning, match="no space"):
        history = afnp.fit(flow, rows, epochs=1, progress=False)
    assert history.stopped == "epochs"


SMALL_AND_LARGE = """
    import warnings
    import numpy as np
    import afnp
    flow = afnp.maf(4, hidden=(64, 64), transforms=2)
    u = np.random.default_rng(0).standard_normal((2000, 4))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        x = flow.generate(u)[0]
        flow.log_prob(x), flow.loss_and_grad(x)
        afnp.fit(flow, x, epochs=1, batch_size=1000, progress=False)
    assert len(said) == 1 and "compiled code is not used" in str(said[0].message), said
    try:
        flow.log_prob(x, backend="numba")
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize(
    "before, error",
    [
        ("import os; os.environ['NUMBA_DISABLE_JIT'] = '1'", "RuntimeError"),
        ("import os; os.environ['NUMBA_NUM_THREADS'] = '0'", "ValueError"),
        ("import sys; sys.modules['numba'] = None", "ModuleNotFoundError"),
        (
            "import sys, types; sys.modules['numba'] = types.ModuleType('numba')",
            "ImportError",
        ),
    ],
    ids=["no jit", "no threads", "no numba", "broken numba"],
)
def test_where_numba_does_not_work_auto_does(before, error):
    program = before + "\n" + textwrap.dedent(SMALL_AND_LARGE)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == error


@pytest.fixture
def uncompiled(monkeypatch):
    """A univariate that nobody has compiled."""

    class Shifted(Affine):
        """Affine under another name."""

    monkeypatch.setitem(UNIVARIATES, "shifted", Shifted)


@pytest.mark.parametrize("kind", ["convolution", "masked"])
def test_a_univariate_without_compiled_code_runs_in_numpy(uncompiled, monkeypatch, kind):
    """Also where there is so much work that compiled code would pay; by name it is refused."""
    pytest.importorskip("numba")
    monkeypatch.setattr(models, "COMPILED_FROM", 0)

    def flow(univariate):
        if kind == "masked":
            return afnp.maf(6, hidden=(8,), transforms=1, univariate=univariate)
        return afnp.Flow([convolutional(6, 3, (1, 2), univariate=univariate)])

    odd, known = flow("shifted"), flow("affine")
    x = np.random.default_rng(0).standard_normal((20, 6))
    np.testing.assert_array_equal(odd.log_prob(x), known.log_prob(x, backend="numpy"))
    drawn = odd.sample(5), known.sample(5, backend="numpy")
    np.testing.assert_array_equal(*drawn)
    assert odd.loss_and_grad(x)[0] == known.loss_and_grad(x, backend="numpy")[0]
    words = r"^backend: 'numba' has no compiled code for layer 0, \w+ with \w+ and Shifted; "
    for call in (odd.log_prob, odd.normalize, odd.generate, odd.loss_and_grad):
        with pytest.raises(ValueError, match=words):
            call(x, backend="numba")


# Float32 and data that need more digits


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_seconds_since_1970_keep_their_digits_in_a_float32_flow(backend):
    """Unix time +- 60 s: float32 knows it to 128 s, so the mean is subtracted before the cast."""
    rng = np.random.default_rng(0)
    x = 1.7e9 + 60 * rng.standard_normal((20_000, 1))
    flow = afnp.maf(1, hidden=(8,), transforms=1, dtype=np.float32, preprocess=[Standardize.of(x)])
    flow.parameters["1.b1"] = [0.3, -0.4]
    u, log_det = flow.normalize(x, backend=backend)
    assert u.dtype == log_det.dtype == np.float32 and len(np.unique(u)) > 19_000
    back, _ = flow.generate(u, backend=backend)
    assert back.dtype == np.float64 and np.abs(back - x).max() < 1e-3  # of 60 s, in float32
    entropy = 0.5 * np.log(2 * np.pi * np.e * 60**2)
    flow.theta[:] = 0
    assert abs(-flow.log_prob(x, backend=backend).mean() - entropy) < 0.02
    assert len(np.unique(flow.sample(20_000, rng=1, backend=backend))) > 19_000
    loss, grad = flow.loss_and_grad(x, backend=backend)
    assert abs(loss - entropy) < 0.02 and grad.dtype == np.float32


def test_a_float32_flow_is_fitted_to_seconds_since_1970():
    rng = np.random.default_rng(0)
    x = 1.7e9 + 60 * rng.standard_normal((400, 2))
    flow = afnp.maf(
        2,
        hidden=(8,),
        transforms=1,
        dtype=np.float32,
        preprocess=[Standardize.of(x)],
        between="batchnorm",
    )
    history = afnp.fit(flow, x, epochs=5, progress=False)
    entropy = np.log(2 * np.pi * np.e * 60**2)
    assert abs(history.train_loss[-1] - entropy) < 0.2


def test_a_gradient_is_written_where_it_is_wanted(backend):
    flow = afnp.maf(3, (8,), 2, seed=1)
    x = np.random.default_rng(0).standard_normal((20, 3))
    loss, grad = flow.loss_and_grad(x, backend=backend)
    out = np.full_like(grad, np.nan)
    again, written = flow.loss_and_grad(x, backend=backend, out=out)
    assert written is out and again == loss and np.array_equal(out, grad)


@pytest.mark.parametrize(
    "wrong", [[0.0], np.zeros(3), "theta", np.float32, lambda P: np.zeros(2 * P)[::2]]
)
def test_memory_that_cannot_hold_a_gradient_is_refused(wrong):
    flow = afnp.maf(2, (4,), 1)
    P = flow.theta.size
    if wrong is np.float32:
        wrong = np.zeros(P, np.float32)
    elif callable(wrong):
        wrong = wrong(P)
    elif isinstance(wrong, str):
        wrong = flow.theta
    with pytest.raises(ValueError, match=r"^out: expected a contiguous, writeable array"):
        flow.loss_and_grad(np.zeros((1, 2)), out=wrong)
