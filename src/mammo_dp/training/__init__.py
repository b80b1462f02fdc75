"""Loops, checkpoints and resume."""
