"""What all agree on: card, recipe, specs, options, report values, and what a target, step, probe, modality and task is."""
