"""What is measured: one file a probe; `schedule` owns processes and order."""
