"""The stages on a GPU, under the names of :mod:`afnp.compiled`."""
