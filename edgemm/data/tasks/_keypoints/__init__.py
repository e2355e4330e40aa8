"""What the keypoints task is made of."""
