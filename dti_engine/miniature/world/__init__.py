"""The procedural world: what there is, what it is called and how it is drawn. No torch."""
