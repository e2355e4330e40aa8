"""The workshop: torch, nncf and transformers live here and nowhere else. Imports nothing of the box."""
