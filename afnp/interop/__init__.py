"""Doors to other people's tools; each needs its own extra, and nothing else of afnp imports them."""
