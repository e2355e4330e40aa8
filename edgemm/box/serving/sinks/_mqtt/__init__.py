"""Inner parts of sink mqtt."""
