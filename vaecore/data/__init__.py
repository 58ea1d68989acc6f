"""Image sets, loaded, embedded, made from others or a user's own, and random distortion of images."""
