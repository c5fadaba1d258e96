"""Dispatchers: they take pictures of jobs from the ledger, and have engines paint them."""
