"""The box: numpy and one runtime. Imports nothing of the workshop."""
