"""Verification: is this really a normalizing flow? Checks for afnp's flows, and for anybody's."""

from afnp.verify.adapters import adapt
from afnp.verify.calibration import Calibration, calibration
from afnp.verify.cases import Case, cases, parametrize
from afnp.verify.checks import CHECKS
from afnp.verify.derivatives import central_jacobian, complex_step_jacobian, dependency_pattern
from afnp.verify.functions import Functions
from afnp.verify.levels import LEVELS, Level
from afnp.verify.parameters import randomize
from afnp.verify.report import Report
from afnp.verify.results import Result
from afnp.verify.runner import check_flow
from afnp.verify.subject import Subject
from afnp.verify.two_sample import best_accuracy, c2st

__all__ = [
    "CHECKS",
    "LEVELS",
    "Calibration",
    "Case",
    "Functions",
    "Level",
    "Report",
    "Result",
    "Subject",
    "adapt",
    "best_accuracy",
    "c2st",
    "calibration",
    "cases",
    "central_jacobian",
    "check_flow",
    "complex_step_jacobian",
    "dependency_pattern",
    "parametrize",
    "randomize",
]
