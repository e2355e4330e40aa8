"""Inner parts of `list`."""
