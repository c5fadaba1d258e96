"""Who may ask for what: tenants, their keys, their limits."""
