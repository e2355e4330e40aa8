"""Where a model's inputs come from; one file a kind."""
