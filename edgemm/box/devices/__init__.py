"""What the box is."""
