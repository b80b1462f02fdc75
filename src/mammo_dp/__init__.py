"""Privacy-preserving classification of breast masses, from raw mammograms to a table of privacy against utility."""

__version__ = "0.1.0"
