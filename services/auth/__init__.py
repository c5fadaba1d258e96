"""Authentication: tenants, their API keys and their limits."""
