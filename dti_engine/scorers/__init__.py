"""Models that score images of real things: DINOv2 for the subject, SigLIP for the prompt.

Scores are of single images, and means are over images. The paper's code averages the means of
batches for the subject score, so the images of a last, smaller batch have more weight there.

This module itself loads no torch.
"""

DINOV2 = "facebook/dinov2-base"
SIGLIP = "google/siglip-base-patch16-512"
"""The models that define the paper's scores; other sizes, and siglip2, give other scores."""

FOLDERS = ("dinov2-base", "siglip-base-patch16-512")
"""The folder names of both models inside one parent folder."""
