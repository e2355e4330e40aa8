"""Ways to join branches: one small file each."""
