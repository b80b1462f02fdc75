"""Bounds in few digits, never below the value."""

import math


def rounded_up(value: float, *, digits: int = 3) -> str:
    """To `digits` significant digits, upwards: a bound that is rounded down claims too much."""
    if value <= 0 or math.isinf(value):
        return f"{value:g}"
    scale = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    above = math.ceil(value / scale - 1e-6) * scale
    return f"{above:.0f}" if above >= 10**digits else f"{above:.{digits}g}"
