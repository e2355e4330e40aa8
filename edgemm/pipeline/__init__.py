"""From a card to a bundle, stage by stage; each is cached by what it depends on. `bundling.py` tells the order."""
