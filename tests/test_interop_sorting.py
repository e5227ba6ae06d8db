"""Networks of other libraries, sorted by degree: the same functions, here without those libraries.

``tests/imported_zuko.json`` holds what zuko computed from small networks: with torch and zuko,
``python tests/test_interop_sorting.py`` makes it again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from afnp.interop.doors import assembled
from afnp.interop.sorting import Linear, Network, generation_order, masked_layer
from afnp.univariate import UNIVARIATES, Affine, ClippedAffine

RECORD = Path(__file__).with_name("imported_zuko.json")


def record() -> dict:
    """Return networks, orders, and what the flows made of them give, out of zuko."""
    import torch
    import zuko

    kept = {}
    for name, kind, options in [
        ("maf, random orders, context", zuko.flows.MAF, {"context": 2, "randperm": True}),
        ("nsf, three passes", zuko.flows.NSF, {"bins": 3, "passes": 3}),
    ]:
        torch.manual_seed(len(kept))
        flow = kind(5, transforms=2, hidden_features=(6, 7), **options).double()
        transforms = flow.transform.transforms
        x = torch.randn(4, 5).double()
        context = torch.randn(4, 2).double() if "context" in options else None
        layers = [
            {
                "order": torch.argsort(transform.order, stable=True).tolist(),
                "linears": [
                    [part.weight.tolist(), part.bias.tolist(), part.mask.int().tolist()]
                    for part in list(transform.hyper)[::2]
                ],
            }
            for transform in transforms
        ]
        kept[name] = {
            "univariate": "clipped_spline" if "bins" in options else "clipped_affine",
            "options": {"bins": 3} if "bins" in options else {},
            "layers": layers,
            "context": None if context is None else context.tolist(),
            "x": x.tolist(),
            "u": flow(context).transform(x).tolist(),
            "log_prob": flow(context).log_prob(x).tolist(),
        }
    return kept


def network_of(layer) -> Network:
    linears = [(*map(np.array, linear),) for linear in layer["linears"]]
    return Network([Linear(W, b, mask.astype(bool)) for W, b, mask in linears])


@pytest.mark.parametrize("name", ["maf, random orders, context", "nsf, three passes"])
def test_recorded_flows_are_the_same_flows(name):
    kept = json.loads(RECORD.read_text())[name]
    univariate = UNIVARIATES[kept["univariate"]](**kept["options"])
    imported = [
        masked_layer(network_of(layer), univariate, np.array(layer["order"]))
        for layer in kept["layers"]
    ]
    flow = assembled(imported, np.dtype(np.float64))
    x, context = np.array(kept["x"]), kept["context"]
    np.testing.assert_allclose(flow.log_prob(x, context), kept["log_prob"], rtol=1e-10)
    np.testing.assert_allclose(flow.normalize(x, context)[0], kept["u"], rtol=1e-9, atol=1e-11)
    for method in ("substitution", "naive"):
        back = flow.generate(kept["u"], context, method=method)[0]
        np.testing.assert_allclose(back, x, rtol=1e-8, atol=1e-9)


def shuffled(D=6, C=2, H=9, K=2, seed=0):
    """A network whose units are in no order, over features in an order of their own."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(D)
    place = np.argsort(order) + 1
    degrees = np.concatenate([place, np.zeros(C, int)])
    hidden = [rng.integers(0, D, H) for _ in range(2)]
    linears = []
    for rows in hidden:
        mask = degrees <= rows[:, None]
        linears.append(Linear(rng.normal(size=mask.shape), rng.normal(size=len(rows)), mask))
        degrees = rows
    mask = degrees < np.repeat(place, K)[:, None]
    linears.append(Linear(0.3 * rng.normal(size=mask.shape), rng.normal(size=D * K), mask))
    return Network(linears, "tanh"), order


def test_a_sorted_network_is_the_same_function():
    network, order = shuffled()
    flow = assembled([masked_layer(network, ClippedAffine(), order)], np.dtype(np.float64))
    rng = np.random.default_rng(1)
    x, context = rng.normal(size=(5, 6)), rng.normal(size=(5, 2))
    values = np.hstack([x, context])
    for l, (W, b, mask) in enumerate(network.linears):
        values = (np.tanh(values) if l else values) @ (W * mask).T + b
    t, a = values.reshape(5, 6, 2)[..., 0], values.reshape(5, 6, 2)[..., 1]
    alpha = a / (1 + abs(a) / np.log(1000))
    u, log_det = flow.normalize(x, context)
    np.testing.assert_allclose(u, x * np.exp(alpha) + t, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(log_det, alpha.sum(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(flow.generate(u, context)[0], x, rtol=1e-9, atol=1e-9)


def test_an_order_is_found_where_none_is_told():
    """Any that the network allows will do."""
    network, order = shuffled()
    found = generation_order(network, 6)
    masked_layer(network, Affine(), found)
    place = np.argsort(found)
    D, last = 6, network.linears[-1].mask
    reach = last.astype(int)
    for linear in reversed(network.linears[:-1]):
        reach = reach @ linear.mask.astype(int)
    for row, column in zip(*np.nonzero(reach[:, :D]), strict=True):
        assert place[column] < place[row // 2]


def test_a_network_that_is_not_autoregressive_is_refused():
    whole = Network([Linear(np.ones((4, 2)), np.zeros(4), np.ones((4, 2), bool))])
    with pytest.raises(ValueError, match="params of feature 0 depend on the feature itself"):
        generation_order(whole, 2)
    network, order = shuffled()
    with pytest.raises(ValueError, match="order: the params of feature . depend on a later"):
        masked_layer(network, Affine(), order[::-1])


def test_a_residual_block_keeps_its_streams_degrees():
    """A block may add to a unit what the unit depends on already, and nothing more."""
    first = Linear(np.eye(2), np.zeros(2), np.array([[1, 0], [1, 1]], bool))
    inner = Linear(np.ones((2, 2)), np.zeros(2), np.array([[1, 0], [1, 1]], bool))
    wrong = inner._replace(mask=np.ones((2, 2), bool))
    last = Linear(np.ones((4, 2)), np.zeros(4), np.array([[0, 0], [0, 0], [1, 0], [1, 0]], bool))
    masked_layer(Network([first, inner, inner, last], residual=True), Affine(), np.arange(2))
    with pytest.raises(ValueError, match="a residual block adds what its stream may not"):
        masked_layer(Network([first, inner, wrong, last], residual=True), Affine(), np.arange(2))


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(), separators=(",", ":")) + "\n")
