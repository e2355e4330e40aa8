"""Image encoders, sound encoders and so on: one small file each."""
