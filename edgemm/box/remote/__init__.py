"""The part of edgemm that runs on another machine, as one file that Python starts: the same code, without the workshop."""

STATUS, JOB, REPORT, PID, LOG = "status.json", "job.json", "report.json", "pid", "log.txt"
"""Files of a job's folder there."""
DATA = "data"
"""Folder of the decoded data in it."""
FALLBACK = "onnxruntime"
"""What runs a graph whose own runtime is missing, where the user allows that."""
