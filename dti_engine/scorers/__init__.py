"""Models that score images of real things: DINOv2 for the subject, SigLIP for the prompt.

Scores are of single images, and means are taken over images. The paper's code takes the means
of batches for the subject score, so that the images of a last, smaller batch count for more.

This module itself loads no torch.
"""

DINOV2 = "facebook/dinov2-base"
SIGLIP = "google/siglip-base-patch16-512"
"""What the paper's scores are defined by. Other sizes, and siglip2, give other scores."""

FOLDERS = ("dinov2-base", "siglip-base-patch16-512")
"""Of both, where they lie in one folder."""
