"""Attacks: FGSM, PGD, Square, L-BFGS, and the detector that adaptive attacks aim at."""
