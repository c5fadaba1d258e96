"""Dispatchers: they take images of jobs from the ledger, and have engines generate them."""
