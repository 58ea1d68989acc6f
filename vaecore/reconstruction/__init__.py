"""Encoding, decoding, many-draw reconstruction and likelihoods."""
