"""Load a bundle from a folder, zip or tar, and report everything that is wrong with it at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from dti_engine.errors import InvalidBundleError, InvalidImageError
from dti_engine.images.bundles.archives import BundleSource, is_archive
from dti_engine.images.bundles.decoder import Decoder
from dti_engine.images.bundles.members import (
    DEFAULT_LIMITS,
    BundleFinding,
    BundleLimits,
    is_ignored,
    printable,
)
from dti_engine.images.bundles.reader import DESCRIPTION, read_contents
from dti_engine.images.bundles.schema import BundleDescription, ImageNotes, parse
from dti_engine.images.crops import mask_coverage
from dti_engine.images.decode import SubjectImage
from dti_engine.images.file_formats import READABLE, SUFFIXES, image_format

_MAX_LINES = 50  # of an error message; `check_bundle` returns all findings
_HASH_SIDE = 8
_MASK_ENDINGS = ("-masklabel.png", ".mask.png")  # of OneTrainer and of forks of kohya's scripts
_NESTED = (
    f"in a nested folder; images lie beside {DESCRIPTION}, and only masks that it names may lie "
    "deeper"
)


@dataclass(frozen=True, eq=False)
class Bundle:
    """Images of one subject with captions and masks, and the description of the subject."""

    path: Path | None  # None: its files were given, not their place
    description: BundleDescription
    images: Sequence[SubjectImage]  # the valid ones, in the order of their names
    errors: Sequence[BundleFinding]
    warnings: Sequence[BundleFinding]


def expand_paths(paths: Sequence[Path]) -> list[Path]:
    """Return the bundles that these paths are or contain.

    A folder with an image or `bundle.json` is a bundle. A folder with neither stands for its
    folders and archives, by name, if it has any. Ignored are the files that a bundle ignores.
    """
    return [bundle for path in paths for bundle in _nested_bundles(path) or [path]]


def _nested_bundles(path: Path) -> list[Path]:
    """Return the bundles in a folder of bundles; none if it is itself a bundle."""
    if not path.is_dir():
        return []
    children = sorted(child for child in path.iterdir() if not is_ignored(child.name))
    if any(child.name == DESCRIPTION or child.suffix.lower() in SUFFIXES for child in children):
        return []
    return [child for child in children if child.is_dir() or is_archive(child)]


def read_description(path: Path, *, limits: BundleLimits = DEFAULT_LIMITS) -> BundleDescription:
    """Return the content of bundle.json, or an empty description; images are not read.

    Errors in it are left to `load_bundle`.
    """
    files = read_contents(path, limits, only_description=True).files
    return parse(files[DESCRIPTION])[0] if DESCRIPTION in files else BundleDescription()


def load_bundle(
    path: Path, *, resolution: int | None = None, limits: BundleLimits = DEFAULT_LIMITS
) -> Bundle:
    """Load a bundle without errors. `resolution`: see `check_bundle`.

    Raises: InvalidBundleError that lists all errors.
    """
    bundle = check_bundle(path, resolution=resolution, limits=limits)
    if bundle.errors:
        lines = [f"\n  {finding}" for finding in bundle.errors[:_MAX_LINES]]
        if more := len(bundle.errors) - len(lines):
            lines.append(f"\n  and {more} more")
        raise InvalidBundleError(f"{str(path)!r} rejected:{''.join(lines)}")
    return bundle


def check_bundle(
    source: BundleSource, *, resolution: int | None = None, limits: BundleLimits = DEFAULT_LIMITS
) -> Bundle:
    """Load what is valid of a bundle, with all errors and warnings.

    resolution: side of the training crops in pixels, to warn of smaller images.
    """
    contents = read_contents(source, limits)
    description, errors = BundleDescription(), list(contents.errors)
    strays = list[BundleFinding]()
    if DESCRIPTION in contents.files:
        description, description_errors = parse(contents.files.pop(DESCRIPTION))
        errors += description_errors
    masks = _masks_beside(contents.files)
    files = dict[str, bytes]()
    for name, data in contents.files.items():
        if name in description.masks or name in masks.values():
            continue  # checked with its image
        if _is_stray(name, data):
            strays.append(BundleFinding(name, "no image; it is passed over"))
        elif "/" in name:
            errors.append(BundleFinding(name, _NESTED))
        else:
            files[name] = data
    errors += _missing_images(description, files, contents.files)
    if len(files) > limits.max_images:
        reason = f"{len(files)} images; allowed are {limits.max_images}, 3 to 6 are usual"
        errors.append(BundleFinding("", reason))
        files = {}  # decoding them all would take long, and the bundle is rejected anyway
    # One decoder for all: starting a process takes longer than decoding most images.
    images = list[SubjectImage]()
    with Decoder(limits) as decoder:
        for name, data in files.items():
            try:
                image = decoder.image(name, data)
                # Before the mask is decoded: a copy, or an image beyond the limit, is not worth it.
                _check_among(image, images, limits)
                notes = description.images.get(name, ImageNotes())
                mask = _mask(notes.mask or masks.get(name), image, contents.files, decoder)
                images.append(replace(image, caption=notes.caption, mask=mask))
            except InvalidImageError as error:
                errors.append(BundleFinding(name, str(error)))
    if not files and not errors:
        errors.append(BundleFinding("", f"no images; put {READABLE} files there"))
    warnings = strays + (list(_warnings(images, resolution, limits)) if images else [])
    path = source if isinstance(source, Path) else None
    return Bundle(path, description, images, errors, warnings)


def _masks_beside(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return image -> its mask, for masks that other trainers keep beside images.

    OneTrainer names the mask of `rex.jpg` `rex-masklabel.png`, and forks of kohya's scripts
    `rex.mask.png`.
    """
    images = {Path(name).stem: name for name in files if "/" not in name}
    masks = dict[str, str]()
    for name in files:
        for ending in _MASK_ENDINGS:
            stem = name.removesuffix(ending)
            if stem != name and stem in images:
                masks[images[stem]] = name
    return masks


def _is_stray(name: str, data: bytes) -> bool:
    """Return whether a file neither is an image nor claims to be one by its name."""
    return image_format(data) is None and Path(name).suffix.lower() not in SUFFIXES


def _missing_images(
    description: BundleDescription, images: Mapping[str, bytes], files: Mapping[str, bytes]
) -> Iterator[BundleFinding]:
    """Yield an error for each image that bundle.json names and that does not exist."""
    for name in description.images:
        if name not in images:
            other = " (it is named as a mask)" if name in files else ""
            yield BundleFinding(
                printable(name), f"{DESCRIPTION} names this image, but it does not exist{other}"
            )


def _check_among(image: SubjectImage, others: Sequence[SubjectImage], limits: BundleLimits) -> None:
    """Check an image against the others. Raises: InvalidImageError if it is a copy or too much."""
    for other in others:
        if other.sha256 == image.sha256:
            raise InvalidImageError(f"the same file as {other.name!r}; remove one")
    pixels = sum(each.image.width * each.image.height for each in (*others, image))
    if pixels > limits.max_decoded_megapixels * 1e6:
        raise InvalidImageError(
            f"with it, the images have more than {limits.max_decoded_megapixels:g} megapixels; "
            "scale them down"
        )


def _mask(
    name: str | None, image: SubjectImage, files: Mapping[str, bytes], decoder: Decoder
) -> Image.Image | None:
    """Decode and check the mask of an image. Raises: InvalidImageError."""
    if name is None:
        return None
    if name not in files:
        raise InvalidImageError(f"its mask {name!r} does not exist, or was rejected")
    try:
        mask = decoder.mask(files[name])
    except InvalidImageError as error:
        raise InvalidImageError(f"its mask {name!r}: {error}") from error
    # Not resized: a mask of another size may be of another crop, or of the image before it was
    # turned upright, and a wrong mask trains on the background.
    if mask.size != image.image.size:
        raise InvalidImageError(
            f"its mask {name!r} has {_size(mask)} px, the image has {_size(image.image)}; "
            "both must have one size"
        )
    if not mask_coverage(mask):
        raise InvalidImageError(
            f"its mask {name!r} is black, or nearly so; paint the subject white"
        )
    return mask


def _warnings(
    images: Sequence[SubjectImage], resolution: int | None, limits: BundleLimits
) -> Iterator[BundleFinding]:
    if len(images) < limits.usual_images:
        yield BundleFinding("", f"{len(images)} of the usual 3 to 6 images; give more if you can")
    hashes = [difference_hash(image.image) for image in images]
    for index, image in enumerate(images):
        for other, other_hash in zip(images[:index], hashes, strict=False):
            if hamming_distance(hashes[index], other_hash) <= limits.near_duplicate_bits:
                yield BundleFinding(image.name, f"nearly identical to {other.name!r}")
                # One warning for each image: three copies are two too many, not three pairs.
                break
        short, long = sorted(image.image.size)
        if resolution and short < resolution:
            reason = f"{_size(image.image)} px, will be enlarged to the {resolution} of training"
            yield BundleFinding(image.name, reason)
        if long > limits.max_aspect * short:
            reason = f"{_size(image.image)} px: each square crop of it shows a small part"
            yield BundleFinding(image.name, reason)


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


def difference_hash(image: Image.Image) -> int:
    """Return 64 bits: each says whether a thumbnail's pixel is brighter than its right neighbour.

    Scaling, compression and small changes of colour leave most bits unchanged.

    Source: Krawetz 2013, "Kind of like that" (dHash).
    """
    thumbnail = image.resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX).convert("L")
    pixels = thumbnail.tobytes()
    bits = 0
    for row in range(_HASH_SIDE):
        start = row * (_HASH_SIDE + 1)
        for left in range(start, start + _HASH_SIDE):
            bits = bits << 1 | (pixels[left] > pixels[left + 1])
    return bits


def hamming_distance(a: int, b: int) -> int:
    """Return the number of bits in which two hashes differ."""
    return (a ^ b).bit_count()
