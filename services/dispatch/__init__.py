"""Dispatchers: they claim images of generation jobs, and have engines generate them."""
