"""Are the tokens of a run any good? Each is tried out in a few images, odd ones are flagged."""
