"""Telling tenants that a job has ended, at the URLs that they gave."""
