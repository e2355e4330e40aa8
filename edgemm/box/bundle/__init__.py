"""What is inside a bundle: packing it, sealing it, and checking it again."""
