"""Layers that encoders, fusions and heads share."""
