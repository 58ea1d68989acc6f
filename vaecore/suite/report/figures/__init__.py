"""Figures, drawn from results alone: the catalogue, a file for each family, and their style."""
