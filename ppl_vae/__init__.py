"""Hierarchical variational autoencoders as probabilistic programs, in Pyro and in NumPyro."""
