"""Storage: requests of the stores and of the ledger on top of them."""
