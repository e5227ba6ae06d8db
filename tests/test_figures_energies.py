"""The figure of energies: its densities, its rival, and what it claims."""

import functools
import math
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import norm_error

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from afnp.train.energy import ImportanceSample  # noqa: E402
from afnp.verify import central_jacobian  # noqa: E402

energies = import_module("figures.35_energies")
D = energies.L**2


@functools.cache
def quick():
    return energies.data(quick=True)


@pytest.mark.parametrize("energy, features", [(energies.double_well, 2), (energies.field, D)])
def test_gradients_are_those_of_central_differences(energy, features):
    x = np.random.default_rng(0).standard_normal((3, features))
    value, gradient = energy(x)
    assert value.shape == (3,)
    central = central_jacobian(lambda x: energy(x)[0][:, None], x)[:, 0]
    assert norm_error(gradient, central) < 1e-7


def test_the_field_does_not_know_where_it_begins_nor_its_sign():
    phi = np.random.default_rng(0).standard_normal((4, energies.L, energies.L))
    energy = energies.field(phi.reshape(4, D))[0]
    for same in (-phi, np.roll(phi, (1, 2), (1, 2)), phi.transpose(0, 2, 1)):
        assert energies.field(same.reshape(4, D))[0] == pytest.approx(energy)


def free_correlations(mass):
    """Of the Gaussian field, λ = 0: its propagator, by Fourier's sum over momenta."""
    L, p = energies.L, 2 * np.pi * np.arange(energies.L) / energies.L
    inverse = 1 / (4 - 2 * np.cos(p)[:, None] - 2 * np.cos(p) + mass)
    return [(inverse * np.cos(p * r)[:, None]).sum() / L**2 for r in range(L // 2 + 1)]


def test_hamiltonian_monte_carlo_knows_the_free_field():
    """Within five standard errors over chains."""
    free = functools.partial(energies.field, mass=1.0, coupling=0.0)
    chains = energies.hamiltonian(free, np.zeros((100, D)), 80, np.random.default_rng(0))
    by_chain = np.array([energies.correlations(x) for x in chains[20:]]).mean(axis=0)
    error = by_chain.std(axis=0, ddof=1) / math.sqrt(100)
    assert (np.abs(by_chain.mean(axis=0) - free_correlations(1.0)) < 5 * error).all()


def test_weights_repair_the_wrong_density():
    """Independent sites, as wide as the free field's slowest mode, weighted for it."""
    x = np.random.default_rng(0).standard_normal((50_000, D)) / math.sqrt(3)
    log_p = -1.5 * (x * x).sum(axis=1)
    found = ImportanceSample(x, -energies.field(x, mass=3.0, coupling=0.0)[0] - log_p)
    said = energies._weighted(found)
    difference = np.abs(said["correlation_flow"] - free_correlations(3.0))
    assert (difference < 5 * said["correlation_flow_standard_error"]).all()


@pytest.mark.slow
def test_the_claims_are_the_numbers():
    numbers = quick()["numbers"]
    good, stuck = numbers["wells"].values()
    assert good["part_of_z"] == pytest.approx(1, abs=5 * good["log_z_standard_error"])
    assert stuck["part_of_z"] == pytest.approx(0.5, abs=0.03)
    assert stuck["effective_fraction"] > 0.5 and good["effective_fraction"] > 0.3
    torsions = numbers["torsions"]
    assert torsions["log_z"] == pytest.approx(0, abs=5 * torsions["log_z_standard_error"] + 0.01)
    assert torsions["effective_fraction"] > 0.8
    log_z = [said["log_z"] for said in numbers["field"].values()]
    error = max(said["log_z_standard_error"] for said in numbers["field"].values())
    assert np.ptp(log_z) < 8 * error
    assert min(said["effective_fraction"] for said in numbers["field"].values()) > 0.2
    gap = np.abs(np.subtract(numbers["correlation_flow"], numbers["correlation_hmc"]))
    both = np.hypot(
        numbers["correlation_flow_standard_error"], numbers["correlation_hmc_standard_error"]
    )
    assert (gap < 5 * both).all()
