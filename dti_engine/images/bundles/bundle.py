"""A bundle from a folder, zip or tar: everything that is wrong with it is said at once.

Images that are nearly the same, found by a hash of what they show.

Folders of bundles: thousands need not be named one by one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from dti_engine.errors import InvalidBundleError, InvalidImageError
from dti_engine.images.bundles.decoder import Decoder
from dti_engine.images.bundles.members import (
    DEFAULT_LIMITS,
    BundleFinding,
    BundleLimits,
    is_ignored,
    printable,
)
from dti_engine.images.bundles.reader import DESCRIPTION, is_archive, read_contents
from dti_engine.images.bundles.schema import BundleDescription, ImageNotes, parse
from dti_engine.images.crops import mask_coverage
from dti_engine.images.decode import SUFFIXES, SubjectImage

_SIDE = 8


def difference_hash(image: Image.Image) -> int:
    """64 bits, each for whether a thumbnail's pixel is brighter than its right neighbour.

    Scaling, compression and small changes of colour leave most bits alone.
    Source: Krawetz 2013, "Kind of like that" (dHash).
    """
    thumbnail = image.resize((_SIDE + 1, _SIDE), Image.Resampling.BOX).convert("L")
    pixels = thumbnail.tobytes()
    bits = 0
    for row in range(_SIDE):
        start = row * (_SIDE + 1)
        for left in range(start, start + _SIDE):
            bits = bits << 1 | (pixels[left] > pixels[left + 1])
    return bits


def hamming_distance(a: int, b: int) -> int:
    """Bits in which two hashes differ."""
    return (a ^ b).bit_count()


_MAX_LINES = 50  # of a message; whoever wants all of them asks `check_bundle`


@dataclass(frozen=True, eq=False)
class Bundle:
    """Images of one subject, with their captions and masks, and what is said of the subject."""

    path: Path
    description: BundleDescription
    images: Sequence[SubjectImage]  # that are not refused, in the order of their names
    refusals: Sequence[BundleFinding]
    warnings: Sequence[BundleFinding]


def read_description(path: Path, *, limits: BundleLimits = DEFAULT_LIMITS) -> BundleDescription:
    """What bundle.json says, without a look at the images; of a bundle without one, nothing.

    What is wrong with it is for `load_bundle` to say.
    """
    files = read_contents(path, limits, only_description=True).files
    return parse(files[DESCRIPTION])[0] if DESCRIPTION in files else BundleDescription()


def load_bundle(
    path: Path, *, resolution: int | None = None, limits: BundleLimits = DEFAULT_LIMITS
) -> Bundle:
    """The bundle, if nothing in it is refused. `resolution`: see `check_bundle`.

    Raises: InvalidBundleError, which lists what is refused, and why.
    """
    bundle = check_bundle(path, resolution=resolution, limits=limits)
    if bundle.refusals:
        lines = [f"\n  {finding}" for finding in bundle.refusals[:_MAX_LINES]]
        if more := len(bundle.refusals) - len(lines):
            lines.append(f"\n  and {more} more")
        raise InvalidBundleError(f"{str(path)!r} refused:{''.join(lines)}")
    return bundle


def check_bundle(
    path: Path, *, resolution: int | None = None, limits: BundleLimits = DEFAULT_LIMITS
) -> Bundle:
    """The bundle as far as it can be used, with all that is refused and all that is worth a word.

    resolution: side of the crops in pixels that it will be trained at, to warn of smaller images.
    """
    contents = read_contents(path, limits)
    description, refusals = BundleDescription(), list(contents.refusals)
    if DESCRIPTION in contents.files:
        description, found = parse(contents.files.pop(DESCRIPTION))
        refusals += found
    files = dict[str, bytes]()
    for name, data in contents.files.items():
        if name in description.masks:
            continue
        if reason := _not_a_image(name):
            refusals.append(BundleFinding(name, reason))
        else:
            files[name] = data
    refusals += _absent(description, files, contents.files)
    if len(files) > limits.max_images:
        reason = f"{len(files)} images; allowed are {limits.max_images}, 3 to 6 are usual"
        refusals.append(BundleFinding("", reason))
        files = {}
    subject_images = list[SubjectImage]()
    with Decoder(limits) as decoder:
        for name, data in files.items():
            try:
                subject_image = decoder.image(name, data)
                _judge_among(subject_image, subject_images, limits)
                notes = description.images.get(name, ImageNotes())
                mask = _mask(notes.mask, subject_image, contents.files, decoder)
                subject_images.append(replace(subject_image, caption=notes.caption, mask=mask))
            except InvalidImageError as error:
                refusals.append(BundleFinding(name, str(error)))
    if not files and not refusals:
        refusals.append(BundleFinding("", "no images; put JPEG, PNG or WebP files there"))
    warnings = list(_warnings(subject_images, resolution, limits)) if subject_images else []
    return Bundle(path, description, subject_images, refusals, warnings)


def _not_a_image(name: str) -> str | None:
    if "/" in name:
        return (
            f"in a folder within; images lie beside {DESCRIPTION}, and only masks that it names "
            "may lie deeper"
        )
    if Path(name).suffix.lower() not in SUFFIXES:
        return (
            f"not a JPEG, PNG or WebP file; convert it or take it away. Words go to {DESCRIPTION}"
        )
    return None


def _absent(
    description: BundleDescription, subject_images: Mapping[str, bytes], files: Mapping[str, bytes]
) -> Iterator[BundleFinding]:
    """What bundle.json names and is not there."""
    for name in description.images:
        if name not in subject_images:
            other = " (it is named as a mask)" if name in files else ""
            yield BundleFinding(
                printable(name), f"{DESCRIPTION} names this image, but there is none{other}"
            )


def _judge_among(
    subject_image: SubjectImage, others: Sequence[SubjectImage], limits: BundleLimits
) -> None:
    """Raises: InvalidImageError if it is one of the others, or too much beside them."""
    for other in others:
        if other.sha256 == subject_image.sha256:
            raise InvalidImageError(f"the same file as {other.name!r}; take one away")
    pixels = sum(each.image.width * each.image.height for each in (*others, subject_image))
    if pixels > limits.max_decoded_megapixels * 1e6:
        raise InvalidImageError(
            f"with it, the images have more than {limits.max_decoded_megapixels:g} megapixels; "
            "scale them down"
        )


def _mask(
    name: str | None, subject_image: SubjectImage, files: Mapping[str, bytes], decoder: Decoder
) -> Image.Image | None:
    """Raises: InvalidImageError if it cannot be used."""
    if name is None:
        return None
    if name not in files:
        raise InvalidImageError(f"its mask {name!r} is not there, or was refused")
    try:
        mask = decoder.mask(files[name])
    except InvalidImageError as error:
        raise InvalidImageError(f"its mask {name!r}: {error}") from error
    if mask.size != subject_image.image.size:
        raise InvalidImageError(
            f"its mask {name!r} has {_size(mask)} px, the image has {_size(subject_image.image)}; "
            "both must have one size"
        )
    if not mask_coverage(mask):
        raise InvalidImageError(
            f"its mask {name!r} is black, or nearly so; paint the subject white"
        )
    return mask


def _warnings(
    subject_images: Sequence[SubjectImage], resolution: int | None, limits: BundleLimits
) -> Iterator[BundleFinding]:
    if len(subject_images) < limits.usual_images:
        yield BundleFinding(
            "", f"{len(subject_images)} of the usual 3 to 6 images; give more if you can"
        )
    hashes = [difference_hash(each.image) for each in subject_images]
    for index, subject_image in enumerate(subject_images):
        for other, its_hash in zip(subject_images[:index], hashes, strict=False):
            if hamming_distance(hashes[index], its_hash) <= limits.near_duplicate_bits:
                yield BundleFinding(subject_image.name, f"nearly identical to {other.name!r}")
                break
        short, long = sorted(subject_image.image.size)
        if resolution and short < resolution:
            reason = (
                f"{_size(subject_image.image)} px, will be enlarged to the {resolution} of training"
            )
            yield BundleFinding(subject_image.name, reason)
        if long > limits.max_aspect * short:
            reason = f"{_size(subject_image.image)} px: each square crop of it shows a small part"
            yield BundleFinding(subject_image.name, reason)


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"


_IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def expand_paths(paths: Sequence[Path]) -> list[Path]:
    """The bundles that these are or hold.

    A folder with an image or `bundle.json` is a bundle; one with neither gives its folders and
    archives, by name, if it has any. What hides or is passed over in bundles is passed over here.
    """
    return [bundle for path in paths for bundle in _within(path) or [path]]


def _within(path: Path) -> list[Path]:
    """What a folder of bundles holds; nothing if it is none."""
    if not path.is_dir():
        return []
    found = sorted(each for each in path.iterdir() if not is_ignored(each.name))
    if any(each.name == DESCRIPTION or each.suffix.lower() in _IMAGES for each in found):
        return []
    return [each for each in found if each.is_dir() or is_archive(each)]
