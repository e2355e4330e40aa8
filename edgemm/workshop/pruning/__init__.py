"""Which channels of a model may go together, and taking them out: own dependency analysis on torch.export's graph."""
