"""Inner parts of target tensorrt."""
