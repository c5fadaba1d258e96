"""Caching: single flight, byte-bounded LRU, stale-while-error, negative cache, circuit breaker."""
