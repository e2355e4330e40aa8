"""What augmentations of sound share."""
