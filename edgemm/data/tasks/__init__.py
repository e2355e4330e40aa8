"""What an output means: one small file a task."""
