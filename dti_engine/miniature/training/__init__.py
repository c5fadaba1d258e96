"""Training of the miniature's weights; only `recipe` needs it."""
