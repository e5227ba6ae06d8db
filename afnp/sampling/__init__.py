"""How one samples: forward substitution, and fixed-point iterations; NumPy, the definitions."""
