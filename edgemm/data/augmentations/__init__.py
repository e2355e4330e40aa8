"""Variants: one way to change the samples of an input a file."""
