"""What is measured: one file a probe; `_schedule` owns processes and order."""
