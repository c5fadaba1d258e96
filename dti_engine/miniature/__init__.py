"""A small trained text-to-image model, and the procedural world it was trained on."""
