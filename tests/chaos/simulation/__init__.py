"""A simulation of the ledger: many processes over one S3 server, with faults, in virtual time."""
