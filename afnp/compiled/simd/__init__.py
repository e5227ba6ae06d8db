"""Vectors: register tiles, and elementary functions that LLVM keeps in the lanes."""
