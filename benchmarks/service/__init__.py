"""The service: what the API, the workers and the queue cost beside the engine alone."""
