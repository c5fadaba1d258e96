"""Text encoders, learned tokens, and prompts that contain them."""
