"""Pure functions from arrays to numbers."""
