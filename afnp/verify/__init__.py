"""Verification: is this really a normalizing flow? Checks for afnp's flows, and for anybody's functions."""

from afnp.verify.adapters import adapt
from afnp.verify.behaviour import batch_independence, deterministic, pure, staleness
from afnp.verify.cases import Case, cases, parametrize
from afnp.verify.derivatives import central_jacobian, complex_step_jacobian, dependency_pattern
from afnp.verify.draws import randomness
from afnp.verify.gradient import gradients
from afnp.verify.levels import LEVELS, Level
from afnp.verify.limits import edges
from afnp.verify.parameters import randomize
from afnp.verify.pit import agreement
from afnp.verify.quadrature import normalisation
from afnp.verify.questions import odd_input, shapes
from afnp.verify.report import Report
from afnp.verify.results import Result
from afnp.verify.runner import CHECKS, check_flow
from afnp.verify.structure import connectivity, dependency, triangular
from afnp.verify.subject import Subject
from afnp.verify.sweeps import monotone
from afnp.verify.values import antisymmetry, log_det, round_trip

__all__ = [
    "CHECKS",
    "LEVELS",
    "Case",
    "Level",
    "Report",
    "Result",
    "Subject",
    "adapt",
    "agreement",
    "antisymmetry",
    "batch_independence",
    "cases",
    "central_jacobian",
    "check_flow",
    "complex_step_jacobian",
    "connectivity",
    "dependency",
    "dependency_pattern",
    "deterministic",
    "edges",
    "gradients",
    "log_det",
    "monotone",
    "normalisation",
    "odd_input",
    "parametrize",
    "pure",
    "randomize",
    "randomness",
    "round_trip",
    "shapes",
    "staleness",
    "triangular",
]
