"""Reference models and their training."""
