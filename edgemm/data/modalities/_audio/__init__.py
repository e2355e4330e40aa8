"""Inner parts of modality audio."""
