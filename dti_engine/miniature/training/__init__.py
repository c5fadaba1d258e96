"""Everything that makes the weights; only `recipe` needs it."""
