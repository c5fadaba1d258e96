"""caching."""
