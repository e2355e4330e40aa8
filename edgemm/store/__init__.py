"""Finished work on disk: artifacts written whole, the cache of stages, one reproducible zip."""
