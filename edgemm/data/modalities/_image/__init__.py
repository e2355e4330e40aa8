"""Inner parts of modality image."""
