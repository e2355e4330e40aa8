"""Samples with one piece after another taken away: places of a picture, of a spectrogram, words of a text, moments of a series."""
