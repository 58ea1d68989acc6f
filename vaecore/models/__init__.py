"""Reference models, their training and augmentation."""
