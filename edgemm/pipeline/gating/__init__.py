"""Gates: from which sureness on the answer without a branch is taken, and what that is proved to cost at most."""
