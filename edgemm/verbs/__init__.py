"""Commands: one file each, `def <name>(...)`, called by the command line and from Python alike."""
