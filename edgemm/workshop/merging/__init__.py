"""Token merging: fewer tokens from layer to layer of a transformer that sees."""
