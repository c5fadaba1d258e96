"""The engine: images from prompts and learned tokens, many tenants' in one call of the model."""
