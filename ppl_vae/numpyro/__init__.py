"""What every NumPyro program here stands on; `ppl_vae.pyro` offers the same names."""
