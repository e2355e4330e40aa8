"""Where decisions go; one file a kind."""
