"""Inner parts of `demo`."""
