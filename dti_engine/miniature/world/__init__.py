"""The procedural world: its things, their names and their drawings. Loads no torch."""
