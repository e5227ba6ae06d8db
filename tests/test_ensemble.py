"""Ensembles: the mixture's density, gradient and samples, the spread, and one file for all."""

import copy
import json
import pickle
import struct

import numpy as np
import pytest
from conftest import lively, norm_error

import afnp
from afnp import files
from afnp.cli import main
from afnp.transforms import Bounds, Standardize

D, C, M = 2, 1, 3


def members(context=0, dtype=np.float64):
    kinds = (
        afnp.maf(D, (8,), 2, context=context, dtype=dtype),
        afnp.realnvp(D, (8,), 2, context=context, dtype=dtype),
        afnp.nsf(
            D,
            (8,),
            1,
            context=context,
            dtype=dtype,
            preprocess=[Standardize([0.5, 0.0], [1.5, 0.8])],
        ),
    )
    return [lively(flow, seed=m, last=0.2) for m, flow in enumerate(kinds)]


def rows(context, n=6):
    rng = np.random.default_rng(context)
    return rng.standard_normal((n, D)), rng.standard_normal((n, C)) if context else None


each_context = pytest.mark.parametrize("context", [0, C])


@each_context
def test_the_density_is_the_mean_of_the_members(context, backend):
    flows, (x, c) = members(context), rows(context)
    ensemble = afnp.FlowEnsemble(flows)
    by_member = np.stack([flow.log_prob(x, c, backend) for flow in flows])
    assert (ensemble.log_prob_by_member(x, c, backend) == by_member).all()
    expected = np.log(np.exp(by_member).mean(axis=0))
    np.testing.assert_allclose(ensemble.log_prob(x, c, backend), expected, rtol=1e-12)
    np.testing.assert_allclose(ensemble.spread(x, c, backend), by_member.std(axis=0), rtol=1e-12)
    assert (ensemble.log_prob(x, c) >= by_member.mean(axis=0) - 1e-12).all()


def test_the_density_integrates_to_one():
    ensemble = afnp.FlowEnsemble(members())
    axis = np.linspace(-12, 12, 401)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, D)
    total = np.exp(ensemble.log_prob(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert total == pytest.approx(1, abs=5e-3)


@each_context
def test_the_score_is_the_derivative_of_log_p(context):
    """Central differences of a density without corners that matter at 1e-5."""
    ensemble, (x, c), h = afnp.FlowEnsemble(members(context)), rows(context), 1e-5
    score = ensemble.score(x, c)
    for i in range(D):
        step = h * np.eye(D)[i]
        central = (ensemble.log_prob(x + step, c) - ensemble.log_prob(x - step, c)) / (2 * h)
        assert norm_error(score[:, i], central) < 1e-6
    if context:
        central = (ensemble.log_prob(x, c + h) - ensemble.log_prob(x, c - h)) / (2 * h)
        assert norm_error(ensemble.score(x, c, of="context")[:, 0], central) < 1e-6


def test_samples_come_from_all_members():
    """Means within five standard errors of the mean of the members' own."""
    flows = members()
    for shift, flow in zip((-20.0, 0.0, 20.0), flows, strict=True):
        flow.layers.insert(0, Standardize([shift, 0.0], [1.0, 1.0]))
    flows = [afnp.Flow(flow.layers, theta=flow.theta) for flow in flows]
    x = afnp.FlowEnsemble(flows).sample(6000, rng=0)
    near = [(np.abs(x[:, 0] - shift) < 10).mean() for shift in (-20, 0, 20)]
    assert near == pytest.approx([1 / 3] * 3, abs=5 * np.sqrt(2 / 9 / 6000))
    again = afnp.FlowEnsemble(flows).sample(6000, rng=0)
    assert (x == again).all() and x.shape == (6000, D)


def test_samples_of_contexts_are_in_their_rows():
    flows = [lively(afnp.made(D, (8,), context=C), seed=m) for m in range(2)]
    for flow in flows:
        flow.theta[:] = 0
        flow.parameters["0.W0"][:, 0] = 1.0
        flow.parameters["0.W1"][0] = 1.0
    c = np.linspace(5, 50, 40)[:, None]
    x = afnp.FlowEnsemble(flows).sample(40, rng=0, context=c)
    assert np.abs(x[:, 0] - 4 * c[:, 0]).max() < 6  # units of degree 0
    assert afnp.FlowEnsemble(flows).sample(0, context=c[:0]).shape == (0, D)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_file_holds_all(tmp_path, dtype):
    flows, (x, c) = members(C, dtype), rows(C)
    flows[0].standardize_context([[1.0], [3.0]])
    for flow in flows:
        flow.columns, flow.context_columns = ["a", "b"], ["t"]
    ensemble = afnp.FlowEnsemble(flows)
    afnp.save(ensemble, tmp_path / "e.afnp")
    again = afnp.load(tmp_path / "e.afnp")
    assert type(again) is afnp.FlowEnsemble and again.columns == ("a", "b")
    assert again.context_columns == ("t",) and again.dtype == dtype
    assert (again.log_prob(x, c) == ensemble.log_prob(x, c)).all()
    assert (again.sample(7, 1, c[:1]) == ensemble.sample(7, 1, c[:1])).all()


def test_copies_are_ensembles_of_their_own():
    ensemble, (x, _) = afnp.FlowEnsemble(members()), rows(0)
    before = ensemble.log_prob(x)
    for other in (copy.deepcopy(ensemble), pickle.loads(pickle.dumps(ensemble))):
        other.flows[0].theta += 0.1
        assert (other.log_prob(x) != before).any() and (ensemble.log_prob(x) == before).all()


def test_the_spread_of_one_is_zero_and_of_different_supports_infinite():
    (x, _), one = rows(0), members()[:1]
    assert not afnp.FlowEnsemble(one).spread(x).any()
    inside = afnp.maf(D, (8,), 1, preprocess=[Bounds([-1.0] * 2, [1.0] * 2)])
    x = np.array([[0.0, 0.0], [2.0, 0.0]])
    ensemble = afnp.FlowEnsemble([*one, inside])
    assert np.isfinite(ensemble.spread(x)).tolist() == [True, False]
    assert np.isfinite(ensemble.log_prob(x)).all() and np.isfinite(ensemble.score(x)).all()
    nowhere = afnp.FlowEnsemble([inside, inside])
    assert nowhere.spread(x)[1] == 0 and np.isneginf(nowhere.log_prob(x)[1])
    assert not nowhere.score(x)[1].any()


REFUSED = {
    "none": ([], "flows: expected at least one, got none"),
    "kind": ([afnp.DiscreteMADE(2)], "flows: member 0: expected a Flow, got DiscreteMADE"),
    "alone": (3, "flows: member 0: expected a Flow, got int"),
    "features": ([afnp.made(2, (4,)), afnp.made(3, (4,))], "member 1: expected features 2"),
    "context": ([afnp.made(2, (4,)), afnp.made(2, (4,), context=1)], "expected context 0"),
    "dtype": (
        [afnp.made(2, (4,)), afnp.made(2, (4,), dtype=np.float32)],
        "expected dtype float64 as member 0, got float32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_members_that_do_not_fit_are_refused(case):
    flows, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        afnp.FlowEnsemble(flows)


def test_contexts_and_training_are_refused_by_name():
    ensemble, (x, c) = afnp.FlowEnsemble(members(C)), rows(C)
    with pytest.raises(ValueError, match="context: expected 5 rows"):
        ensemble.sample(5, context=c)
    with pytest.raises(ValueError, match="context: expected 1 columns, got none"):
        ensemble.sample(5)
    with pytest.raises(ValueError, match="flow: expected one flow, got an ensemble"):
        afnp.fit(ensemble, x, context=c)


WRONG = {
    "no members": lambda config: {**config, "flows": []},
    "another size": lambda config: {**config, "flows": config["flows"][:2]},
    "a member of a member": lambda config: {**config, "flows": [config]},
    "one name too many": lambda config: {**config, "weights": [1.0]},
    "very wide": lambda config: {
        **config,
        "flows": [
            {
                **config["flows"][0],
                "layers": [{"type": "Logit", "features": 10**12, "alpha": 0.1}],
                "base": {"type": "StandardNormal", "features": 10**12},
            }
        ],
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_describe_no_ensemble_are_refused(tmp_path, case):
    ensemble = afnp.FlowEnsemble(members())
    config, theta = WRONG[case](ensemble.config()), ensemble.theta
    theta = theta[:0] if case == "very wide" else theta
    files.write(tmp_path / "e.afnp", "model", {"flow": config}, {"theta": theta})
    with pytest.raises(afnp.ModelFileError, match="the configuration does not describe a flow"):
        afnp.load(tmp_path / "e.afnp")


def test_the_header_is_plain_json(tmp_path):
    afnp.save(afnp.FlowEnsemble(members()), tmp_path / "e.afnp")
    raw = (tmp_path / "e.afnp").read_bytes()
    length = struct.unpack("<I", raw[12:16])[0]
    header = json.loads(raw[16 : 16 + length])
    assert header["flow"]["type"] == "FlowEnsemble" and len(header["flow"]["flows"]) == M


def test_the_command_line_scores_and_samples_one(tmp_path, capsys):
    ensemble, (x, _) = afnp.FlowEnsemble(members()), rows(0)
    afnp.save(ensemble, tmp_path / "e.afnp")
    np.savetxt(tmp_path / "x.csv", x, delimiter=",")
    model, table, out = (str(tmp_path / name) for name in ("e.afnp", "x.csv", "out.csv"))
    assert main(["score", model, table]) == 0
    assert f"{ensemble.log_prob(x).mean():.4f}" in capsys.readouterr().out
    assert main(["sample", model, "-n", "5", "--seed", "3", "-o", out]) == 0
    drawn = np.loadtxt(out, delimiter=",", ndmin=2)
    np.testing.assert_allclose(drawn, ensemble.sample(5, rng=3), rtol=1e-6)
