"""The guarantee: accounting, batch selection, clipped gradients and noise. One file for each."""
