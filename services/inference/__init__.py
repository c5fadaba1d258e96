"""Engines: they generate images for the API and for dispatchers, by continuous batching."""
