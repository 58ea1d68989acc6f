"""Sections of the report, as plain values: one file for each family, with its tasks and what they show."""
