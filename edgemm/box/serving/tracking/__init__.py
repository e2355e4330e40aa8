"""Boxes followed from picture to picture, and what they do at zones and lines."""
