"""Training: speed, memory and work of a step, and of whole runs."""
