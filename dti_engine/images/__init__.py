"""Training images: decoding, bundles, crops and tensors."""
