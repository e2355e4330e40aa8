"""Training a model: the loop, its plan, losses, a teacher."""
