"""Every figure that the documents quote: one module, one command each (README.md here)."""
