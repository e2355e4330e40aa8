"""Kinds of input: one file a modality."""
