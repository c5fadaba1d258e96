"""The HTTP API. It loads neither torch nor Ray, so that it is deployed and scaled by itself."""
