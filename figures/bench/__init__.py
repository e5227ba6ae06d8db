r"""Side by side: afnp and the flow libraries of PyTorch and JAX, the same flow, in one run.

.. math:: \text{ratio} =
          \frac{\text{median seconds of the fastest other library}}{\text{median seconds of afnp}}

``python -m figures.bench`` times log-density, sampling, training steps and single samples of a
masked autoregressive flow, affine (arXiv 1705.07057) or of splines (arXiv 1906.04032), in afnp,
zuko, nflows, normflows and flowjax. Before that it proves that they compute the same thing. Each
library has a process of its own with a clean environment; they are asked in turn, so that their
repeats interleave. The first call, with whatever it compiles, is told apart. What is not installed
is named.
"""

from figures.bench.command import main

__all__ = ["main"]
