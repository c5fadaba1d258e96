"""Fault injection in three sizes: simulated processes, real processes, the whole service."""
