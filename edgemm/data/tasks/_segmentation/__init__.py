"""What the segmentation task is made of."""
