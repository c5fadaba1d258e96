"""What a bundle may hold, what its decoding may take, and what is worth a warning."""

from dataclasses import dataclass, field

from dti_engine.images import PictureLimits


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """All limits of a bundle. What is counted is what is read, whatever a header declares."""

    picture: PictureLimits = field(default_factory=PictureLimits)

    max_archive_bytes: int = 500_000_000
    max_directory_bytes: int = 1_000_000  # a zip's table of contents, which is parsed as a whole
    max_entries: int = 1000  # of any kind, hidden ones included
    max_unpacked_bytes: int = 500_000_000
    max_description_bytes: int = 1_000_000
    max_pictures: int = 100
    max_decoded_megapixels: float = 400.0  # of all pictures; 3 bytes each stay in memory
    max_name_bytes: int = 255  # what file systems take
    max_depth: int = 8  # folders within folders

    # The largest picture allowed takes 1.3 GB: its RGBA copies for transparency, and its bytes.
    decoder_memory_bytes: int = 2 * 2**30
    decoder_seconds: float = 20.0  # of one picture; the largest takes about 3

    few_pictures: int = 3  # fewer are a warning
    near_bits: int = 6  # of 64 in which nearly identical pictures differ; real ones in 15 or more
    max_aspect: float = 2.5  # longer side / shorter side


DEFAULT_LIMITS = BundleLimits()
