"""Jobs, attempts and results as objects in a store: nothing lost, nothing twice."""
