"""Image generation: prompts with learned tokens to images, in shared batches."""
