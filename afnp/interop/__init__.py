"""Doors to other people's tools; each needs its own extra, and is imported when it is asked for.

``formats`` alone is no door: ``afnp.save`` and ``afnp.load`` are its, and it opens the one to
safetensors for a file of that name.
"""
