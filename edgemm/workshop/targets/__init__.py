"""The runtime of the original: torch."""
