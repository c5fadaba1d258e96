"""Generation: images a second, continuous batching, the token cache."""
