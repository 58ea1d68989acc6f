"""Anomaly scores and the features that they share."""
