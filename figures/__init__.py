"""Figures: each is a claim, computed and drawn by its own script; ``python -m figures --list`` names them."""
