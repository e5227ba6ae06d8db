"""Any directed acyclic graph: masks that are the graph, sampling level by level,
density unchanged, interventions."""

import doctest
import warnings

import numpy as np
import pytest
from conftest import complex_step, lively, norm_error
from hypothesis import given, settings
from hypothesis import strategies as st

import afnp
from afnp.applications import intervention
from afnp.applications.intervention import intervene
from afnp.networks import GraphMLP, graph, graph_mlp
from afnp.networks.graph import cycle_of, follow, levels_of, reachability, topological
from afnp.verify import check_flow

repeatable = settings(deadline=None, derandomize=True, max_examples=40)
CHAIN = np.eye(5, k=-1, dtype=bool)
COLLIDER = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=bool)
FORK = np.array([[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
GRAPHS = {
    "chain": CHAIN,
    "collider": COLLIDER,
    "fork": FORK,
    "empty": np.zeros((4, 4), dtype=bool),
    "full": np.tri(4, k=-1, dtype=bool),
    "one": np.zeros((1, 1), dtype=bool),
}
named = pytest.mark.parametrize("name", GRAPHS)


@st.composite
def dags(draw):
    """A random graph of up to 7 features, numbered in any order."""
    D = draw(st.integers(1, 7))
    below = draw(st.lists(st.booleans(), min_size=D * D, max_size=D * D))
    order = np.array(draw(st.permutations(range(D))))
    return np.tril(np.reshape(below, (D, D)), -1)[np.ix_(order, order)]


def flow_of(structure, transforms=1, **options):
    options = {"hidden": (24, 24), "seed": 1, **options}
    flow = afnp.maf(len(structure), transforms=transforms, structure=structure, **options)
    return lively(flow, seed=2, last=0.4, garbage=7.0)


def rows(flow, n=9, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, flow.features))
    return x, rng.standard_normal((n, flow.context)) if flow.context else None


def pattern_of(flow, points=6):
    """Which u_i moves, by a single bit, with which x_j somewhere."""
    x, c = rows(flow, points)
    x *= 0.5
    u = flow.normalize(x, c, backend="numpy")[0]
    moved = np.zeros((flow.features, flow.features), dtype=bool)
    for j in range(flow.features):
        for step in (0.7, -1.3):
            there = x.copy()
            there[:, j] += step
            moved[:, j] |= (flow.normalize(there, c, backend="numpy")[0] != u).any(axis=0)
    return moved


# ---- graphs --------------------------------------------------------------------------------------


def test_docstring_examples_run():
    for module in (graph, graph_mlp, intervention):
        assert doctest.testmod(module).failed == 0


@repeatable
@given(dags())
def test_levels_orders_and_reachability(A):
    levels, order, D = levels_of(A), topological(A), len(A)
    assert cycle_of(A) == []
    assert all(levels[j] < levels[i] for i, j in np.argwhere(A))
    assert all(levels[i] == 0 or A[i, levels == levels[i] - 1].any() for i in range(D))
    assert not np.triu(A[np.ix_(order, order)]).any() and (np.diff(levels[order]) >= 0).all()
    powers = [np.linalg.matrix_power(A.astype(int) + np.eye(D, dtype=int), k) for k in range(D + 1)]
    for k, power in enumerate(powers):
        assert np.array_equal(reachability(A, k), power > 0)
    assert np.array_equal(reachability(A), powers[D] > 0)


@repeatable
@given(dags(), st.data())
def test_a_cycle_is_named_and_is_one(A, data):
    """Closing any path of arrows makes a cycle, and what is named is one."""
    pairs = np.argwhere(reachability(A))
    i, j = pairs[data.draw(st.integers(0, len(pairs) - 1))]
    closed = A.copy()
    closed[j, i] = True
    cycle = cycle_of(closed)
    assert cycle and len(set(cycle)) == len(cycle)
    assert all(closed[b, a] for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True))
    with pytest.raises(ValueError, match="expected no cycle, got " + f"{cycle[0]} -> "):
        afnp.maf(len(A), structure=closed)


@pytest.mark.parametrize(
    "structure, error",
    [
        (np.zeros((3, 4)), r"expected shape \(3, 3\)"),
        ([[0, 0, 0], [1, 0, 0], [0, 0.5, 0]], "row 2, column 1 is 0.5; expected 0 or 1"),
        ([[0, 0, 0], [np.nan, 0, 0], [0, 0, 0]], "row 1, column 0 is nan"),
        ([["a"] * 3] * 3, "expected booleans"),
        ([[0, 0], [1, 0], [0]], "row 2 has 1 values"),
        (np.eye(3), "0 -> 0"),
        (7, r"got \(\)"),
    ],
)
def test_what_is_no_graph_is_refused(structure, error):
    with pytest.raises(ValueError, match="structure: .*" + error):
        afnp.maf(3, structure=structure)


def test_names_come_with_a_frame():
    pandas = pytest.importorskip("pandas")
    names = ["rain", "sprinkler", "wet"]
    table = pandas.DataFrame([[0, 0, 0], [0, 0, 0], [1, 1, 0]], names, names)
    flow = afnp.maf(3, hidden=(8,), transforms=1, structure=table)
    assert flow.columns == tuple(names) and flow.layers[0].allowed()[2].all()
    table.loc["rain", "wet"] = 1
    with pytest.raises(ValueError, match="rain -> wet -> rain"):
        afnp.maf(3, structure=table)
    with pytest.raises(ValueError, match="rows named like the columns"):
        afnp.maf(3, structure=table.iloc[::-1])


@pytest.mark.parametrize(
    "make, error",
    [
        (lambda A: afnp.maf(4, structure=A, order=[3, 2, 1, 0]), "order: follows from"),
        (lambda A: afnp.maf(4, structure=A, order="random"), "order: follows from"),
        (lambda A: afnp.maf(4, structure=A, between="lu"), "a LULinear mixes features"),
        (lambda A: afnp.maf(4, structure=A, between="permutation"), "a Permutation mixes"),
        (lambda A: afnp.iaf(4, structure=A), "structure: expected none here"),
        (lambda A: afnp.tarflow(4, structure=A), "structure: expected none here"),
        (lambda A: afnp.nsf(4, structure=A, coupling=True), "couplings have none"),
        (lambda A: afnp.transforms.masked(4, (8,), "natural", structure=A), "order: follows"),
    ],
)
def test_what_does_not_go_with_a_graph_is_refused(make, error):
    with pytest.raises(ValueError, match=error):
        make(COLLIDER)


BEHIND = [[[], [1]], [[], [-1]], [[]], [[0], []], [[], [2]], [[], [True, 0]], [[], "1"], ["0", ""]]
GARBLED = [["", "-1"], ["", "0-0-0"], ["", "a"], ["", "\N{SUPERSCRIPT TWO}"], ["", "0" * 9]]


@pytest.mark.parametrize("parents", BEHIND + GARBLED)
def test_parents_come_before_their_children(parents):
    with pytest.raises(ValueError, match="parents: expected"):
        GraphMLP(2, 2, parents)


@repeatable
@given(dags())
def test_parents_that_follow_each_other_are_written_as_one(A):
    order = topological(A)
    ordered = A[np.ix_(order, order)]
    net = GraphMLP(len(A), 2, [np.flatnonzero(row) for row in ordered], ())
    written = net.config()["parents"]
    assert all(set(row) <= set("0123456789- ") for row in written)
    np.testing.assert_array_equal(GraphMLP(len(A), 2, written, ()).adjacency, ordered)


def test_a_dense_graph_of_many_features_is_saved(tmp_path):
    """As lists of numbers, its five transforms would be more than a header may hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # widths too small for all dependencies
        flow = afnp.maf(700, hidden=(3,), transforms=5, structure=np.tri(700, k=-1))
        afnp.save(flow, tmp_path / "dense.afnp")
        again = afnp.load(tmp_path / "dense.afnp")
    x = np.random.default_rng(0).normal(size=(2, 700))
    np.testing.assert_array_equal(again.log_prob(x), flow.log_prob(x))


def test_a_graph_has_a_largest_size():
    with pytest.raises(ValueError, match="parents: expected a graph of at most 16384 features"):
        GraphMLP(2**14 + 1, 2, [[]])


# ---- masks ---------------------------------------------------------------------------------------


@repeatable
@given(dags(), st.integers(0, 2), st.sampled_from([(), (30,), (25, 40), (20, 20, 20)]))
def test_the_masks_reach_exactly_the_graph(A, context, hidden):
    order = topological(A)
    ordered = A[np.ix_(order, order)]
    parents = [np.flatnonzero(row) for row in ordered]
    net = GraphMLP(len(A), 2, parents, hidden, context, residual=len(hidden) == 3)
    assert np.array_equal(net.reach(), ordered) and np.array_equal(net.allowed(), ordered)
    reached = follow([net.mask(l) for l in range(len(net.linears))])
    assert reached[:, :context].all(), "the context reaches every output"
    for l, linear in enumerate(net.linears):
        staircase = np.arange(net.mask(l).shape[1]) < linear.prefix[:, None]
        assert not (net.mask(l) & ~staircase).any(), "masks lie under staircases"
    sizes = [group.stop - group.start for group in net.groups]
    assert sizes == np.bincount(levels_of(A)).tolist() and net.depth == len(sizes)


@pytest.mark.parametrize("context", [0, 2])
def test_a_full_graph_is_the_usual_flow(context, backend):
    """The same masks, so the same draws make the same parameters, and the same numbers."""
    common = dict(hidden=(9, 13), transforms=2, context=context, seed=3)
    flow = afnp.maf(5, structure=np.tri(5, k=-1), **common)
    usual = afnp.maf(5, order="natural", **common)
    assert np.array_equal(flow.theta, usual.theta)
    for layer, other in zip(flow.layers, usual.layers, strict=True):
        masks = [layer.conditioner.mask(l) for l in range(3)]
        assert all(np.array_equal(m, other.conditioner.mask(l)) for l, m in enumerate(masks))
        assert np.array_equal(layer.allowed(), other.allowed()) and layer.cost == other.cost
    x, c = rows(flow)
    assert norm_error(flow.log_prob(x, c, backend), usual.log_prob(x, c, backend)) < 1e-13
    assert norm_error(flow.generate(x, c, backend=backend)[0], usual.generate(x, c)[0]) < 1e-13


def test_a_full_graph_in_any_numbering_generates_in_its_order():
    order = np.array([2, 0, 3, 1])
    A = np.zeros((4, 4), dtype=bool)
    for place, i in enumerate(order):
        A[i, order[:place]] = True
    assert np.array_equal(afnp.made(4, structure=A).layers[0].order, order)


def test_too_narrow_a_layer_says_what_is_lost():
    with pytest.warns(UserWarning, match=r"make 2 of 4 dependencies .* at least 4 keeps"):
        narrow = afnp.maf(5, hidden=(2,), transforms=1, structure=CHAIN)
    net = narrow.layers[0].conditioner
    assert net.reach().sum() == 2 and not (net.reach() & ~net.allowed()).any()


# ---- flows ---------------------------------------------------------------------------------------


@repeatable
@given(dags(), st.integers(1, 3))
def test_dependencies_are_the_reachability_in_as_many_arrows_as_transforms(A, transforms):
    flow = flow_of(A, transforms, activation="tanh", hidden=(40,))
    reached = reachability(A, transforms)
    assert np.array_equal(follow([layer.allowed() for layer in flow.layers]), reached)
    assert np.array_equal(pattern_of(flow), reached)


@pytest.mark.parametrize("context", [0, 2])
@named
def test_density_samplers_and_engines_agree(name, context, backend):
    flow = flow_of(GRAPHS[name], 2, context=context)
    x, c = rows(flow, 17)
    u, log_det = flow.normalize(x, c, backend=backend)
    for method in ("substitution", "naive", "jacobi", "gauss-seidel"):
        engine = "numpy" if method == "naive" else backend
        back, log_det_back = flow.generate(u, c, method=method, backend=engine)
        assert norm_error(back, x) < 1e-11 and norm_error(log_det_back, -log_det) < 1e-11
    assert norm_error(log_det, flow.normalize(x, c, backend="numpy")[1]) < 1e-12


@pytest.mark.parametrize("name", ["collider", "fork", "full"])
def test_log_determinants_by_complex_steps(name):
    flow = flow_of(GRAPHS[name], 2, activation="tanh")
    x, _ = rows(flow, 1)
    p, none = flow.split(flow.theta.astype(complex)), np.zeros((1, 0))
    jacobian = complex_step(lambda row: flow.normalize_with(p, row, none)[0], x)[0, :, 0]
    assert abs(np.linalg.slogdet(jacobian)[1] - flow.normalize(x)[1][0]) < 1e-12
    assert not jacobian[~reachability(GRAPHS[name], 2)].any()


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("name", ["collider", "fork", "chain"])
def test_gradients_by_complex_steps(name, context, backend):
    flow = flow_of(GRAPHS[name], 2, activation="tanh", context=context, hidden=(6,))
    x, c = rows(flow, 3)
    condition = np.zeros((3, 0)) if c is None else c
    _, gradient = flow.loss_and_grad(x, c, backend=backend)
    true = complex_step(
        lambda theta: -flow.log_prob_with(flow.split(theta), x, condition).mean(), flow.theta
    )
    assert norm_error(gradient, true) < 1e-12


def test_the_score_by_complex_steps():
    """By the data and by the context; what the graph forbids is not read there either."""
    flow = flow_of(COLLIDER, 2, activation="tanh", context=2)
    x, c = rows(flow, 1)
    p = flow.split(flow.theta)
    by_x = complex_step(lambda z: flow.log_prob_with(p, z, c.astype(complex))[0], x)
    by_context = complex_step(lambda c: flow.log_prob_with(p, x.astype(complex), c)[0], c)
    assert norm_error(flow.score(x, c), by_x) < 1e-12
    assert norm_error(flow.score(x, c, of="context"), by_context) < 1e-12


@pytest.mark.parametrize("univariate", ["spline", "gaussian_mixture", "circular_spline"])
def test_other_univariates(univariate, backend):
    flow = flow_of(FORK, 2, univariate=univariate)
    x, _ = rows(flow, 8)
    u, log_det = flow.normalize(x, backend=backend)
    back, log_det_back = flow.generate(u, backend=backend)
    assert norm_error(back, x) < 1e-8 and np.abs(log_det + log_det_back).max() < 1e-8
    assert not (pattern_of(flow) & ~reachability(FORK, 2)).any()


def test_relatives_take_a_structure():
    nsf = afnp.nsf(4, hidden=(8,), transforms=1, structure=COLLIDER)
    mog = afnp.maf_mog(4, hidden=(8,), transforms=1, structure=COLLIDER, components=2)
    made = afnp.made(4, hidden=(8,), structure=COLLIDER)
    for flow in (nsf, mog, made):
        for layer in flow.layers:
            assert np.array_equal(layer.allowed(), COLLIDER | np.eye(4, dtype=bool))


def test_each_unit_is_evaluated_once_and_as_often_as_the_graph_is_deep(monkeypatch):
    flow = flow_of(COLLIDER)
    net = flow.layers[0].conditioner
    seen, advance = [], GraphMLP.advance

    def counting(self, p, state, group, known):
        before = [np.isnan(z[:, 0]) for z in state.z]
        h = advance(self, p, state, group, known)
        after = [np.isnan(z[:, 0]) for z in state.z]
        hidden = [int((b & ~a).sum()) for b, a in zip(before, after, strict=True)]
        seen.append([*hidden, h[0].size])
        return h

    def empty(self, p, context, init=GraphMLP.init_state):
        state = init(self, p, context)
        for z in state.z:
            z[:] = np.nan
        return state

    monkeypatch.setattr(GraphMLP, "advance", counting)
    monkeypatch.setattr(GraphMLP, "init_state", empty)
    flow.generate(np.zeros((2, 4)), backend="numpy")
    assert len(seen) == net.depth == 3
    assert np.sum(seen, axis=0).tolist() == [24, 24, 8]
    total = flow.cost.total
    assert total.generate.depth == 3 and total.naive.passes == 3
    assert total.generate.multiply_adds == sum(int(net.mask(l).sum()) for l in range(3))


def test_jacobi_is_done_after_as_many_iterations_as_levels():
    flow = flow_of(COLLIDER)
    jacobi = afnp.sampling.fixed_point.Jacobi()
    iterations = flow.generate_counting(np.ones((5, 4)), None, jacobi)[2]
    assert (iterations <= 4).all()


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("name", ["chain", "collider", "empty"])
def test_the_whole_battery_passes(name, context):
    flow = flow_of(GRAPHS[name], 2, context=context, hidden=(12,))
    report = check_flow(flow, level="quick")
    assert report.ok, f"\n{report}"
    assert report["dependency"].status == report["connectivity"].status == "passed"


def test_saved_fitted_and_conditional(tmp_path):
    rng = np.random.default_rng(0)
    c = rng.standard_normal((600, 1))
    a, b = rng.standard_normal((2, 600))
    x = np.stack([a, b, a + b + c[:, 0] + 0.1 * rng.standard_normal(600)], axis=1)
    graph = [[0, 0, 0], [0, 0, 0], [1, 1, 0]]
    flow = afnp.maf(3, hidden=(16,), transforms=1, structure=graph, context=1, dtype="float32")
    before = flow.log_prob(x, c).mean()
    afnp.fit(flow, x, context=c, epochs=60, learning_rate=1e-2, progress=False)
    assert flow.log_prob(x, c).mean() > before + 1
    afnp.save(flow, tmp_path / "graph.afnp")
    again = afnp.load(tmp_path / "graph.afnp")
    assert again.config() == flow.config() and np.array_equal(again.theta, flow.theta)
    assert np.array_equal(again.sample(5, 3, c[:5]), flow.sample(5, 3, c[:5]))


def test_independent_features_of_an_empty_graph():
    flow = flow_of(GRAPHS["empty"], 3)
    x, _ = rows(flow, 20)
    alone = [flow.log_prob(np.where(np.arange(4) == i, x, 0)) for i in range(4)]
    nothing = flow.log_prob(np.zeros((1, 4)))
    assert np.allclose(flow.log_prob(x), np.sum(alone, axis=0) - 3 * nothing, atol=1e-12)
    assert flow.cost.total.generate.depth == 3


def test_other_engines_refuse_a_graph():
    flow = flow_of(COLLIDER)
    from afnp.compiled.stages import gpu_step

    with pytest.raises(ValueError, match="no GraphMLP"):
        gpu_step(flow.layers[0], flow.split(flow.theta)[0])


# ---- interventions -------------------------------------------------------------------------------


def linear_model():
    """x_0 = u_0, x_1 = 2 x_0 + u_1, x_2 = x_0 - 3 x_1 + u_2, as a flow without hidden units."""
    flow = afnp.maf(3, hidden=(), transforms=1, structure=np.tri(3, k=-1))
    W = flow.split(flow.theta)[0]["W0"]
    W[:] = 0
    x = np.random.default_rng(4).standard_normal((6, 3))
    mu = np.stack([0 * x[:, 0], 2 * x[:, 0], x[:, 0] - 3 * x[:, 1]], axis=1)
    rows_of_mu = np.arange(0, 6, 2)  # K = 2 params a feature: mu comes first
    W[rows_of_mu[1], 0], W[rows_of_mu[2], 0], W[rows_of_mu[2], 1] = 2, 1, -3
    assert np.allclose(flow.normalize(x)[0], x - mu)
    return flow, x


def test_an_intervention_in_a_linear_model_is_known():
    flow, x = linear_model()
    changed = intervene(flow, x, {1: 5.0})
    assert np.allclose(changed[:, 0], x[:, 0]) and (changed[:, 1] == 5).all()
    assert np.allclose(changed[:, 2], x[:, 2] - 3 * (5 - x[:, 1]))
    both = intervene(flow, x, {1: np.arange(6.0), 0: 1.0})
    u_2 = x[:, 2] - x[:, 0] + 3 * x[:, 1]
    assert np.allclose(both, np.stack([np.ones(6), np.arange(6), 1 - 3 * np.arange(6) + u_2], 1))


@repeatable
@given(dags(), st.integers(1, 3), st.data())
def test_others_keep_their_noise_and_what_is_not_reached_its_value(A, transforms, data):
    flow, D = flow_of(A, transforms), len(A)
    x, _ = rows(flow)
    held = data.draw(st.sets(st.integers(0, D - 1), min_size=1))
    changed = intervene(flow, x, {j: 0.5 - j for j in held}, backend="numpy")
    free = np.array([i not in held for i in range(D)])
    before, after = (flow.normalize(rows_, backend="numpy")[0] for rows_ in (x, changed))
    assert np.allclose(before[:, free], after[:, free], atol=1e-8)
    assert all((changed[:, j] == 0.5 - j).all() for j in held)
    reached = reachability(A)[:, sorted(held)].any(axis=1)
    assert np.allclose(changed[:, ~reached], x[:, ~reached], atol=1e-8)


def test_interventions_by_name_and_what_is_refused():
    flow, x = linear_model()
    flow.columns = ("a", "b", "c")
    assert np.array_equal(intervene(flow, x, {"b": 1.0}), intervene(flow, x, {1: 1.0}))
    for do in ({"d": 1.0}, {3: 1.0}, {-1: 1.0}, {0.5: 1.0}):
        with pytest.raises(ValueError, match="do: expected features 0 to 2 or one of"):
            intervene(flow, x, do)
    with pytest.raises(ValueError, match="do: expected a mapping"):
        intervene(flow, x, [1.0])
    with pytest.raises(ValueError, match="do"):
        intervene(flow, x, {1: np.ones(5)})
    with pytest.raises(ValueError, match="do"):
        intervene(flow, x, {1: np.nan})
    with pytest.raises(ValueError, match=r"features \[0, 1\] depend on each other"):
        intervene(afnp.maf(2, hidden=(4,), transforms=2), x[:, :2], {1: 0.0})
