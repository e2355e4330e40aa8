"""Measuring candidates: worker processes, schedule, statistics, tuning, and the one benchmark."""
