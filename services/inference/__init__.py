"""The engine: pictures from prompts and learned tokens, many tenants' in one call of the model."""
