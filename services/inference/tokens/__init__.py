"""The token cache of an engine: loads, revalidates and blends tokens from the ledger."""
