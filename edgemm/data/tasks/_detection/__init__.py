"""Inner parts of task detection."""
