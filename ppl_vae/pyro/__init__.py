"""What every Pyro program here stands on; `ppl_vae.numpyro` offers the same names."""
