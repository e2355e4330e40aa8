"""What a recipe may do to a model: one file a step."""
