"""Are the tokens of a run any good? Each is tried out in a few pictures, odd ones are flagged."""
