"""The search for the best recipe: who chooses trials, who runs them, who measures, and what is made of the best."""
