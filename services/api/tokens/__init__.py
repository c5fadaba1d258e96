"""/v1/tokens: the tokens of a tenant."""
