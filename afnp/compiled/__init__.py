"""Kernels: arithmetic on arrays, each algorithm in one file."""
