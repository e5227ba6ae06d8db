r"""Wrong layers between networks: permutations, normalisations, matrices, couplings, inverses.

.. math:: u = P L U x, \qquad u = (x - m) \odot (v + \epsilon)^{-1/2} e^{\gamma} + \beta, \qquad
          u_B = \tau^{-1}(x_B; h(x_A))
"""

from __future__ import annotations

import numpy as np

from afnp.transforms.linear import solve_lower
from afnp.verify.mutants.clean import ACTNORM, BATCHNORM, LU, PERMUTATION
from afnp.verify.mutants.registry import mutant, relog, replace

# ---- permutations --------------------------------------------------------------------------------


@mutant("mixed", kills="round_trip")
def permutation_applied_twice(flow):
    """The density permutes twice: once in the loader, once in the layer."""
    layer = flow.layers[PERMUTATION]

    @replace(layer, "normalize")
    def normalize(normalize, p, x, context, *way):
        return normalize(p, x[:, layer.order], context, *way)


@mutant("mixed", kills="round_trip")
def permutation_not_undone(flow):
    """The sampler leaves the features in their permuted order."""
    flow.layers[PERMUTATION].generate = lambda p, u, *rest: (u, np.zeros(len(u), u.dtype))


@mutant("mixed", kills="round_trip")
def permutation_undone_by_itself(flow):
    """The sampler applies the permutation instead of its inverse.

    Right for reversals and at two features.
    """
    layer = flow.layers[PERMUTATION]
    layer.generate = lambda p, u, *rest: (u[:, layer.order], np.zeros(len(u), u.dtype))


@mutant("mixed", kills="gradients")
def permutation_forgotten_by_the_gradient(flow):
    """Derivatives go on in the permuted order."""
    flow.layers[PERMUTATION].backward = lambda p, cache, d_u, d_log_det, g: d_u


# ---- normalisations ------------------------------------------------------------------------------


@mutant("mixed", kills="batch_independence")
def batch_statistics_at_evaluation(flow):
    """Batch normalisation takes the batch's own mean and variance for a density too.

    It does not integrate to 1.
    """
    layer = flow.layers[BATCHNORM]

    def normalize(p, x, context, *way):
        m = x.mean(axis=0)
        w = np.log(((x - m) ** 2).mean(axis=0) + layer.epsilon)
        u, log_det, cache = layer._scaled(p, x, m, w)
        return u, log_det, (cache, None)

    layer.normalize = normalize


@mutant("mixed", kills="deterministic")
def running_statistics_never_frozen(flow):
    """Every evaluation moves the running mean a little."""
    layer = flow.layers[BATCHNORM]

    @replace(layer, "normalize")
    def normalize(normalize, p, x, *rest):
        result = normalize(p, x, *rest)
        p["mean"][:] += 1e-3 * (x.mean(axis=0).real - p["mean"].real)
        return result


@mutant("mixed", kills="log_det")
def epsilon_missing_in_the_log_det(flow):
    """The map divides by the root of v + epsilon, the log-determinant counts v."""
    layer = flow.layers[BATCHNORM]

    def difference(p):
        return 0.5 * (p["w"] - np.log(np.exp(p["w"]) - layer.epsilon)).sum()

    @replace(layer, "normalize")
    def normalize(normalize, p, *rest):
        u, log_det, cache = normalize(p, *rest)
        return u, log_det + difference(p), cache

    @replace(layer, "generate")
    def generate(generate, p, *rest):
        x, log_det = generate(p, *rest)
        return x, log_det - difference(p)


@mutant("mixed", kills="round_trip")
def epsilon_missing_in_the_inverse(flow):
    """The sampler multiplies by the root of v, the density divides by that of v + epsilon."""
    layer = flow.layers[BATCHNORM]

    @replace(layer, "generate")
    def generate(generate, p, *rest):
        return generate({**p, "w": np.log(np.exp(p["w"]) - layer.epsilon)}, *rest)


@mutant("mixed", kills="log_det")
def gain_of_the_batch_norm_not_counted(flow):
    """The trained gain e^gamma is missing from the log-determinant: in a fresh layer it is 0."""
    layer = flow.layers[BATCHNORM]

    @replace(layer, "normalize")
    def normalize(normalize, p, *rest):
        u, log_det, cache = normalize(p, *rest)
        return u, log_det - p["gamma"].sum(), cache

    @replace(layer, "generate")
    def generate(generate, p, *rest):
        x, log_det = generate(p, *rest)
        return x, log_det + p["gamma"].sum()


@mutant("mixed", kills="batch_independence")
def actnorm_initialised_at_every_batch(flow):
    """The data-dependent start of an ActNorm happens again at every call."""
    layer = flow.layers[ACTNORM]

    @replace(layer, "normalize")
    def normalize(normalize, p, x, *rest):
        return normalize({**p, "m": x.mean(axis=0)}, x, *rest)


# ---- matrices ------------------------------------------------------------------------------------


@mutant("mixed", kills="round_trip")
def triangles_solved_in_the_wrong_order(flow):
    """The inverse of L U is taken for L^-1 U^-1."""
    layer = flow.layers[LU]

    @replace(layer, "generate")
    def generate(generate, p, u, *rest):
        L, U = layer._triangles(p)
        y = solve_lower(U[::-1, ::-1], u[:, layer.rank].T[::-1])[::-1]
        return solve_lower(L, y).T, generate(p, u, *rest)[1]


@mutant("mixed", kills="log_det")
def matrix_without_log_det(flow):
    """The matrix is taken for a rotation, which it is before training only."""
    relog(flow.layers[LU], lambda log_det: 0 * log_det)


@mutant("mixed", kills="gradients")
def gradient_of_the_diagonal_without_log_det(flow):
    """The matrix's diagonal gets no gradient from the log-determinant."""

    @replace(flow.layers[LU], "backward")
    def backward(backward, p, cache, d_u, d_log_det, g):
        return backward(p, cache, d_u, 0 * d_log_det, g)


# ---- couplings and inverse transforms ------------------------------------------------------------


@mutant("coupling", kills="dependency")
def coupling_hears_what_it_transforms(flow):
    """The network of a coupling depends a little on the block it transforms.

    The mask applied after the network.
    """
    layer = flow.layers[0]

    @replace(layer, "_params")
    def params(params, p, values, context):
        leak = 1e-6 * values[:, layer.B].sum(axis=1, keepdims=True)
        return params(p, values + leak, context)


@mutant("coupling", kills="round_trip")
def blocks_swapped_in_the_inverse(flow):
    """The sampler transforms the block that the density lets pass."""
    layer = flow.layers[0]

    @replace(layer, "generate")
    def generate(generate, *arguments):
        layer.A, layer.B = layer.B, layer.A
        try:
            return generate(*arguments)
        finally:
            layer.A, layer.B = layer.B, layer.A


@mutant("coupling", kills="log_det")
def passing_block_scaled(flow):
    """The block that passes through is scaled, a little and uncounted.

    Normalised for the network, and kept so.
    """
    layer, scale = flow.layers[1], 1 + 1e-7

    @replace(layer, "normalize")
    def normalize(normalize, *arguments):
        u, log_det, cache = normalize(*arguments)
        u[:, layer.A] *= scale
        return u, log_det, cache

    @replace(layer, "generate")
    def generate(generate, p, u, *rest):
        u = u.copy()
        u[:, layer.A] /= scale
        return generate(p, u, *rest)


@mutant("coupling", kills="connectivity")
def coupling_without_context(flow):
    """One coupling of two does not pass the context on."""
    layer = flow.layers[1]

    @replace(layer, "_params")
    def params(params, p, values, context):
        return params(p, values, 0 * context)


@mutant("coupling", kills="connectivity")
def coupling_of_independent_features(flow):
    """The network's input is masked to nothing: the coupling scales and shifts by constants."""
    layer = flow.layers[0]

    @replace(layer, "_params")
    def params(params, p, values, context):
        return params(p, 0 * values, context)


@mutant("inverse", kills="antisymmetry")
def inverse_transform_with_the_log_det_of_its_inside(flow):
    """Read the other way, the transform keeps one log-determinant's sign."""
    replace(flow.layers[0], "normalize")(
        lambda normalize, *arguments: _turned(*normalize(*arguments))
    )


def _turned(u, log_det, cache):
    return u, -log_det, cache


@mutant("inverse", kills="gradients")
def gradient_of_the_inverse_without_the_solve(flow):
    """The gradient of a triangular solve takes the diagonal alone: no transposed solve."""
    layer = flow.layers[0]
    inside = layer.transform

    def diagonal(p, cache, d_u, d_log_det):
        only = {name: np.zeros_like(view) for name, view in p.items()}
        net = inside.conditioner.backward
        inside.conditioner.backward = lambda p, cache, d_h, g: 0 * net(p, cache, d_h, g)
        try:
            one = inside.backward(p, cache, np.ones_like(d_u), np.zeros(len(d_u)), only)
        finally:
            inside.conditioner.backward = net
        return d_u / one

    inside.solve_backward = diagonal
