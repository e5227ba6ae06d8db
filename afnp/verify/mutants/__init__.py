"""Mutants: defects planted in small flows, to see that the checks of :mod:`afnp.verify` do."""

from afnp.verify.mutants import (
    behaviour,
    compiled,
    derivatives,
    inverses,
    layers,
    log_dets,
    memories,
    pairs,
    sampling,
    structure,
    tails,
    temperatures,
    totals,
    univariates,
)
from afnp.verify.mutants.registry import MUTANTS, Mutant, check_planted, mutant, replace

__all__ = [
    "MUTANTS",
    "Mutant",
    "behaviour",
    "check_planted",
    "compiled",
    "derivatives",
    "inverses",
    "layers",
    "log_dets",
    "memories",
    "mutant",
    "pairs",
    "replace",
    "sampling",
    "structure",
    "tails",
    "temperatures",
    "totals",
    "univariates",
]
