"""Masks: the staircase is MADE's definition, said with one integer a row."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import afnp
from afnp.networks import MaskedMLP, masks

repeatable = settings(deadline=None, derandomize=True, max_examples=80)

shapes = st.tuples(
    st.integers(1, 9),  # D
    st.integers(0, 3),  # C
    st.lists(st.integers(1, 14), max_size=3),  # hidden widths
)


def degrees_of(features, context, widths):
    """Degrees of every layer: inputs, hidden, outputs."""
    hidden = [masks.degrees_of_hidden(width, features, context) for width in widths]
    return [masks.degrees_of_inputs(features, context), *hidden, np.arange(1, features + 1)]


def staircases_of(degrees):
    last = len(degrees) - 2
    return [
        masks.prefixes(rows, columns, strict=l == last)
        for l, (columns, rows) in enumerate(zip(degrees[:-1], degrees[1:], strict=True))
    ]


def mask_by_definition(rows, columns, last):
    """MADE, arXiv 1502.03509, eq. 12 and 13: a unit of degree m hears degrees <= m,
    an output degrees < i."""
    M = np.zeros((len(rows), len(columns)), dtype=bool)
    for r, m in enumerate(rows):
        for c, d in enumerate(columns):
            M[r, c] = m > d if last else m >= d
    return M


def paths(matrices):
    """Which outputs hear which inputs: unit by unit, layer by layer, as sets."""
    heard = [{c} for c in range(matrices[0].shape[1])]
    for M in matrices:
        heard = [set().union(*(heard[c] for c in np.flatnonzero(row))) for row in M]
    return heard


@repeatable
@given(shapes)
def test_the_staircase_is_the_mask_of_made(shape):
    degrees = degrees_of(*shape)
    for l, prefix in enumerate(staircases_of(degrees)):
        truth = mask_by_definition(degrees[l + 1], degrees[l], last=l == len(degrees) - 2)
        np.testing.assert_array_equal(masks.mask(prefix, len(degrees[l])), truth)


@repeatable
@given(shapes)
def test_prefixes_and_degrees_never_decrease(shape):
    degrees = degrees_of(*shape)
    for numbers in [*degrees, *staircases_of(degrees)]:
        assert (np.diff(numbers) >= 0).all()


@repeatable
@given(shapes)
def test_hidden_degrees_are_useful_and_evenly_spread(shape):
    """No unit that no output hears, none that hears nothing where it could hear something."""
    features, context, widths = shape
    lowest = 0 if context or features == 1 else 1
    for degrees in degrees_of(features, context, widths)[1:-1]:
        assert degrees.min() == lowest and degrees.max() <= max(features - 1, 0)
        shares = np.bincount(degrees - lowest, minlength=features - lowest)
        assert shares.max() - shares.min() <= 1


@repeatable
@given(shapes)
def test_reach_is_the_product_of_the_masks(shape):
    degrees = degrees_of(*shape)
    staircases = staircases_of(degrees)
    product = np.eye(len(degrees[0]), dtype=int)
    for prefix, columns in zip(staircases, degrees, strict=False):
        product = (masks.mask(prefix, len(columns)).astype(int) @ product > 0).astype(int)
    np.testing.assert_array_equal(masks.mask(masks.reach(staircases), len(degrees[0])), product > 0)


@repeatable
@given(shapes)
def test_lost_dependencies_are_the_legal_pairs_without_a_path(shape):
    features, context, widths = shape
    degrees = degrees_of(*shape)
    truth = [
        mask_by_definition(rows, columns, last=l == len(degrees) - 2)
        for l, (columns, rows) in enumerate(zip(degrees[:-1], degrees[1:], strict=True))
    ]
    legal = [{c for c in range(context + features) if c < context + i} for i in range(features)]
    heard = paths(truth)
    assert all(h <= allowed for h, allowed in zip(heard, legal, strict=True))
    lost = sum(len(allowed - h) for h, allowed in zip(heard, legal, strict=True))
    assert masks.lost_dependencies(staircases_of(degrees), features, context) == (
        sum(map(len, legal)),
        lost,
    )


@repeatable
@given(shapes)
def test_dependencies_are_lost_exactly_when_a_layer_is_too_narrow(shape):
    features, context, widths = shape
    needed = features if context else features - 1
    lost = masks.lost_dependencies(staircases_of(degrees_of(*shape)), features, context)[1]
    assert (lost > 0) == any(width < needed for width in widths)


@pytest.mark.parametrize(
    "features, width, lost", [(64, 63, 0), (64, 62, 1), (64, 32, 31), (5, 1, 6)]
)
def test_even_spreading_loses_only_neighbours(features, width, lost):
    """D = 64, H = 32: degrees 1..32 alone would lose 496 dependencies;
    every second degree loses one each."""
    staircases = staircases_of(degrees_of(features, 0, [width]))
    assert masks.lost_dependencies(staircases, features) == (features * (features - 1) // 2, lost)


# One feature


@pytest.mark.parametrize("widths", [[], [1], [4], [4, 4]])
def test_one_feature_hears_nothing(widths):
    assert masks.reach(staircases_of(degrees_of(1, 0, widths))).tolist() == [0]


@pytest.mark.parametrize("widths", [[], [1], [4], [4, 4]])
def test_one_feature_hears_the_whole_context(widths):
    assert masks.reach(staircases_of(degrees_of(1, 3, widths))).tolist() == [3]


# Panels


@repeatable
@given(shapes, st.integers(1, 20))
def test_panels_cover_exactly_the_mask(shape, height):
    degrees = degrees_of(*shape)
    for prefix, columns in zip(staircases_of(degrees), degrees, strict=False):
        covered = np.zeros((len(prefix), len(columns)), dtype=int)
        for panel in masks.panels(prefix, height):
            assert panel.rows.stop - panel.rows.start <= height
            assert panel.beyond.shape == (
                panel.rows.stop - panel.rows.start,
                panel.riser - panel.tread,
            )
            covered[panel.rows, : panel.tread] += 1
            covered[panel.rows, panel.tread : panel.riser] += ~panel.beyond
        np.testing.assert_array_equal(covered, masks.mask(prefix, len(columns)))


@pytest.mark.parametrize("count", [1, 2, 4, 16])
def test_panels_leave_half_of_the_work_and_half_a_panel(count):
    H = 64
    done = sum(
        (p.rows.stop - p.rows.start) * p.riser
        for p in masks.panels(np.arange(1, H + 1), H // count)
    )
    assert done / H**2 == (1 + 1 / count) / 2


# Orders


@pytest.mark.parametrize("features", [1, 2, 5])
def test_named_orders(features):
    assert masks.order_of("natural", features).tolist() == list(range(features))
    assert masks.order_of("reverse", features).tolist() == list(range(features))[::-1]
    assert sorted(masks.order_of("random", features, np.random.default_rng(0))) == list(
        range(features)
    )


@pytest.mark.parametrize("given_as", [list, tuple, np.array, lambda order: (i for i in order)])
def test_a_permutation_is_taken_as_it_is(given_as):
    assert masks.order_of(given_as([2, 0, 3, 1]), 4).tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("order", [[0, 0, 1], [1, 2, 3], [0, 1], [0, 1, 2, 3], [-1, 0, 1]])
def test_what_is_no_permutation_is_refused(order):
    with pytest.raises(ValueError, match=r"order: expected a permutation of 0\.\.2, got \["):
        masks.order_of(order, 3)


def test_unknown_order_and_missing_generator_are_refused():
    with pytest.raises(
        ValueError, match="'natural', 'reverse', 'random' or a permutation, got 'sideways'"
    ):
        masks.order_of("sideways", 3)
    with pytest.raises(ValueError, match=r"'random' needs a numpy\.random\.Generator"):
        masks.order_of("random", 3)


# Warnings


def test_a_narrow_network_warns_with_numbers():
    legal, lost = masks.lost_dependencies(staircases_of(degrees_of(8, 0, [3])), 8)
    with pytest.warns(
        UserWarning, match=rf"\(3,\) make {lost} of {legal} legal .* at least 7 keeps them all"
    ):
        MaskedMLP(features=8, numbers=2, hidden=(3,))


def test_with_a_context_one_more_unit_is_needed():
    with pytest.warns(
        UserWarning, match=r"\(7,\) make \d+ of 36 legal .* at least 8 keeps them all"
    ):
        MaskedMLP(features=8, numbers=2, hidden=(7,), context=1)


@pytest.mark.parametrize(
    "features, context, hidden",
    [(8, 0, (7,)), (8, 1, (8,)), (8, 0, ()), (1, 0, (1,)), (2, 0, (1,))],
)
def test_wide_enough_networks_do_not_warn(features, context, hidden):
    MaskedMLP(features, 2, hidden, context)


def test_each_public_constructor_warns():
    with pytest.warns(UserWarning, match="legal dependencies impossible"):
        afnp.maf(6, hidden=(2,), transforms=1)
    with pytest.warns(UserWarning, match="legal dependencies impossible"):
        afnp.made(6, hidden=(2,))
