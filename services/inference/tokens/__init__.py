"""Tenants' tokens in memory: fetched once, checked, shared by all requests, gone when deleted."""
