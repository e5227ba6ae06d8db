"""Verification: is this really a normalizing flow? Checks for afnp's flows, and for anybody's functions."""

from afnp.verify.behaviour import batch_independence, deterministic, pure, shapes, staleness
from afnp.verify.derivatives import central_jacobian, complex_step_jacobian, dependency_pattern
from afnp.verify.gradient import gradients
from afnp.verify.parameters import randomize
from afnp.verify.quadrature import normalisation
from afnp.verify.results import Report, Result
from afnp.verify.runner import CHECKS, check_flow
from afnp.verify.structure import connectivity, dependency, triangular
from afnp.verify.subject import Subject
from afnp.verify.values import antisymmetry, log_det, round_trip

__all__ = [
    "CHECKS",
    "Report",
    "Result",
    "Subject",
    "antisymmetry",
    "batch_independence",
    "central_jacobian",
    "check_flow",
    "complex_step_jacobian",
    "connectivity",
    "dependency",
    "dependency_pattern",
    "deterministic",
    "gradients",
    "log_det",
    "normalisation",
    "pure",
    "randomize",
    "round_trip",
    "shapes",
    "staleness",
    "triangular",
]
