"""What answers: one small file a task."""
