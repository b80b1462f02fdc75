"""Attacks on finished runs, and the lower bounds of epsilon that follow from their success."""
