"""Folders of open_clip and timm, read as what transformers calls the same models. JSON and names of weights alone: no torch."""
