"""A card with its weights, to a module and back."""
