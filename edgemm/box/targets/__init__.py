"""Runtimes: one file a target."""
