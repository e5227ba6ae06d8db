"""Figures: each is a claim, computed and drawn by its own script; ``--list`` names them."""
