"""Families of Hugging Face models, one a file: which towers a folder has, and how its inputs are prepared."""
