"""The service over HTTP. Loads no torch and no Ray: it scales, and is deployed, by itself."""
