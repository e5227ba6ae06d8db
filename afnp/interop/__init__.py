"""Doors to other people's tools; each needs its own extra, and nothing in afnp imports them."""
