"""Models that were trained apart, joined: cards and labels brought together, the joint fitted on val, and written."""
