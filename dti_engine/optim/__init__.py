"""The method: geometry of the sphere, its prior, the RSGD step, and the optimizers built on it."""
