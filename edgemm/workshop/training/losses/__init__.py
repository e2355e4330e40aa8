"""What an output is trained with: one small file a task."""
