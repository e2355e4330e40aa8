"""Inner parts of the loss of boxes."""
