"""Generative models, one family a file, the same files for Pyro and for NumPyro."""
