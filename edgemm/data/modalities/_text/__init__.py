"""Inner parts of modality text."""
