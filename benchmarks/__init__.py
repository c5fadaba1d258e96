"""Every figure that the documents quote: one module, one command each (docs/results)."""
