"""The parts of the model: how each begins, and the loss that it learns from."""
