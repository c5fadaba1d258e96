"""Many images in one call of the model: the queue, the groups, and the thread with the device."""
