"""Continuous batching: the request queue, the running batches, and the device thread."""
