"""Images: readers of raw collections, patch geometry, splits, patch sets and phantom studies."""
