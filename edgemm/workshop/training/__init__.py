"""Training a model: the loop, its options, losses, a teacher."""
