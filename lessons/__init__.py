"""A course in notebooks, from the chain rule to fast sampling: ``python -m lessons`` opens it."""
