"""What augmentations of pictures share."""
