"""Boxes in pictures: geometry, the forms that models answer them in, suppression, cells of a dataset, average precision. numpy only."""
