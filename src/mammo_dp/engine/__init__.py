"""Artifacts, fingerprints, building, sweeps: what knows nothing of mammograms. The stages are given to it."""
