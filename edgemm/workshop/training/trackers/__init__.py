"""Variants: a place where the records of trainings are kept, a file each."""
