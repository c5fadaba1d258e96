"""The types that processes exchange: jobs, training items, generation requests, served models."""
