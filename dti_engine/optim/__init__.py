"""Triton kernels, each equal to a plain function of the engine, to stated rounding."""
