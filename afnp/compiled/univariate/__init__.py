"""The univariates compiled, under the names of :mod:`afnp.univariate`."""
