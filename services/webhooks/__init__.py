"""Webhooks: signed messages to the tenants' URLs when jobs end."""
