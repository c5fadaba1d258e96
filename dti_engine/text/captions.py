"""Caption templates for training images without captions of their own. Loads no torch."""

from collections.abc import Mapping

from dti_engine.config import CaptionFamily

_SHOTS = (
    "a photo",
    "a close-up photo",
    "a sharp photo",
    "a bright photo",
    "a dim photo",
    "a cropped photo",
    "a studio photo",
    "a detailed picture",
    "a small picture",
    "a snapshot",
)
_WORKS = ("a picture", "a painting", "a drawing", "a sketch", "an illustration", "a print")
_MANNERS = ("in the style of {}", "in {} style")

CAPTION_TEMPLATES: Mapping[CaptionFamily, tuple[str, ...]] = {
    "object": tuple(f"{shot} of {article} {{}}" for shot in _SHOTS for article in ("a", "the")),
    "style": tuple(f"{work} {manner}" for work in _WORKS for manner in _MANNERS),
    "person": tuple(f"{shot} of {{}}" for shot in (*_SHOTS, "a portrait", "a candid portrait")),
    "miniature": ("a photo of a {}", "a {}", "a {}, photo style"),  # its vocabulary is small
}
"""Training captions by family; the placeholder replaces `{}`."""
