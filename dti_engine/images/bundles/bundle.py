"""Load a bundle from a folder, zip or tar, and report everything that is wrong with it at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from dti_engine.errors import InvalidBundleError, InvalidImageError
from dti_engine.images.bundles.archives import BundleSource, bare_name
from dti_engine.images.bundles.decoder import Decoder
from dti_engine.images.bundles.image_warnings import image_warnings
from dti_engine.images.bundles.layouts import (
    Layout,
    arrange,
    class_beside,
    is_image,
    is_mask_name,
    masks_beside,
    repeats_words,
)
from dti_engine.images.bundles.members import (
    DEFAULT_LIMITS,
    BundleFinding,
    BundleLimits,
    printable,
)
from dti_engine.images.bundles.paths import bundle_path
from dti_engine.images.bundles.reader import DESCRIPTION, read_contents
from dti_engine.images.bundles.schema import ALPHA, BundleDescription, ImageNotes, parse
from dti_engine.images.bundles.sidecars import Sidecars, SubjectWords, read_sidecars
from dti_engine.images.crops import mask_coverage
from dti_engine.images.decode import SubjectImage
from dti_engine.images.file_formats import READABLE
from dti_engine.images.photographs import shows_photographs

_MAX_LINES = 50  # of an error message; `check_bundle` returns all findings
_NO_WORDS = SubjectWords()
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

    @property
    def shows_photographs(self) -> bool:
        """Return whether its images are photographs, and no drawings."""
        return shows_photographs(self.images)


def read_description(path: Path, *, limits: BundleLimits = DEFAULT_LIMITS) -> BundleDescription:
    """Return the content of bundle.json and what the data set's layout says; no image is decoded.

    Errors in it are left to `load_bundle`.
    """
    path = bundle_path(path)
    layout = arrange(read_contents(path, limits, only_texts=True).files)
    return _description(path, layout)[0]


def load_bundle(
    path: Path,
    *,
    resolution: int | None = None,
    limits: BundleLimits = DEFAULT_LIMITS,
    words: SubjectWords = _NO_WORDS,
) -> Bundle:
    """Load a bundle without errors; the arguments are those of `check_bundle`.

    Raises: InvalidBundleError that lists all errors.
    """
    bundle = check_bundle(path, resolution=resolution, limits=limits, words=words)
    if bundle.errors:
        lines = [f"\n  {finding}" for finding in bundle.errors[:_MAX_LINES]]
        if more := len(bundle.errors) - len(lines):
            lines.append(f"\n  and {more} more")
        raise InvalidBundleError(f"{str(path)!r} rejected:{''.join(lines)}")
    return bundle


def check_bundle(
    source: BundleSource,
    *,
    resolution: int | None = None,
    limits: BundleLimits = DEFAULT_LIMITS,
    words: SubjectWords = _NO_WORDS,
) -> Bundle:
    """Load what is valid of a bundle, with all errors and warnings.

    Args:
        source: the bundle.
        resolution: side of the training crops in pixels, to warn of smaller images.
        limits: what a bundle may have.
        words: words that captions beside images may have for the subject, besides those that
            bundle.json and the layout of the data set say.
    """
    source = bundle_path(source) if isinstance(source, Path) else source
    contents = read_contents(source, limits)
    layout = arrange(contents.files)
    description, errors = _description(source, layout)
    errors = [*contents.errors, *errors]
    found = _sort(layout, description, contents.strays)
    errors += found.errors
    errors += _missing_images(description, found.images, layout.files)
    images = found.images
    if len(images) > limits.max_images:
        reason = f"{len(images)} images; allowed are {limits.max_images}, 3 to 6 are usual"
        errors.append(BundleFinding("", reason))
        images = {}  # decoding them all would take long, and the bundle is rejected anyway
    captions, warnings = _captions(found.sidecars, _words(words, description, layout))
    warnings = [*_strays(found.strays), *warnings]
    decoded = list[SubjectImage]()
    # One decoder for all: starting a process takes longer than decoding most images.
    with Decoder(limits) as decoder:
        for name, data in images.items():
            try:
                image = decoder.image(name, data)
                # Before the mask is decoded: a copy, or an image beyond the limit, is not worth it.
                _check_among(image, decoded, limits)
                notes = description.images.get(name, ImageNotes())
                mask = _mask(notes.mask or found.masks.get(name), image, layout.files, decoder)
                caption = notes.caption or captions.get(name)
                decoded.append(replace(image, caption=caption, mask=mask))
            except InvalidImageError as error:
                errors.append(BundleFinding(name, str(error)))
    if not images and not errors:
        errors.append(BundleFinding("", f"no images; put {READABLE} files there"))
    if decoded:
        warnings += image_warnings(decoded, resolution, limits)
    path = source if isinstance(source, Path) else None
    return Bundle(path, description, decoded, errors, warnings)


@dataclass(frozen=True)
class _SortedFiles:
    """The files of a bundle by what they are."""

    images: Mapping[str, bytes]
    masks: Mapping[str, str]  # image -> mask that no description names
    sidecars: Sidecars
    strays: Sequence[str]
    errors: Sequence[BundleFinding]


def _sort(layout: Layout, description: BundleDescription, strays: Sequence[str]) -> _SortedFiles:
    masks = masks_beside(layout.files)
    images, others, errors = dict[str, bytes](), list(strays), list[BundleFinding]()
    for name, data in layout.files.items():
        if name in description.masks or name in masks.values() or name == DESCRIPTION:
            continue  # masks are checked with their images
        if is_mask_name(name):
            others.append(name)  # a mask of no image
        elif not is_image(name, data):
            others.append(name)
        elif "/" in name:
            errors.append(BundleFinding(name, _NESTED))
        else:
            images[name] = data
    sidecars = read_sidecars(layout.files, list(images))
    others = sorted(set(others) - sidecars.files)
    return _SortedFiles(images, masks, sidecars, others, errors)


def _description(
    source: BundleSource, layout: Layout
) -> tuple[BundleDescription, list[BundleFinding]]:
    """Return the description, with the class word of the layout where it has none, and errors."""
    description, errors = BundleDescription(), list[BundleFinding]()
    if DESCRIPTION in layout.files:
        description, errors = parse(layout.files[DESCRIPTION])
    if description.initializer is None:
        word = layout.class_word
        if word is None and isinstance(source, Path):
            own = repeats_words(bare_name(source))
            word = own[1] if own else class_beside(source)
        if word:
            description = description.model_copy(update={"initializer": word})
    return description, errors


def _words(given: SubjectWords, description: BundleDescription, layout: Layout) -> SubjectWords:
    """Return all words by which captions may name the subject."""
    return SubjectWords.of(
        [*given.names, description.placeholder, description.subject, layout.trigger],
        [*given.classes, description.initializer, description.class_noun, layout.class_word],
    )


def _captions(
    sidecars: Sidecars, words: SubjectWords
) -> tuple[dict[str, str], list[BundleFinding]]:
    """Return image -> training prompt, and warnings about the captions that cannot be one."""
    prompts, unused = dict[str, str](), list[str]()
    for image, (file, caption) in sidecars.captions.items():
        if prompt := words.training_prompt(caption):
            prompts[image] = prompt
        elif caption.strip():
            unused.append(file)
    warnings = [BundleFinding(name, reason) for name, reason in sidecars.damaged.items()]
    if unused:
        known = ", ".join(map(repr, (*words.names, *words.classes))) or "no word is known"
        remedy = "" if words.classes else "; if they have the class word, give it as initializer"
        warnings.append(
            BundleFinding(
                "",
                f"{len(unused)} captions do not name the subject among their first words "
                f"({known}), so templates stand in for them{remedy}: "
                f"{', '.join(dict.fromkeys(unused))}",
            )
        )
    return prompts, warnings


def _strays(names: Sequence[str]) -> list[BundleFinding]:
    """Return the warning about files that are passed over: one, however many there are."""
    if len(names) < 2:
        return [BundleFinding(name, "no image; it is passed over") for name in names]
    reason = f"{len(names)} files or folders hold no images of the subject: {', '.join(names)}"
    return [BundleFinding("", f"{reason}; passed over")]


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
    if name != ALPHA and name not in files:
        raise InvalidImageError(f"its mask {name!r} does not exist, or was rejected")
    try:
        is_own = name == ALPHA
        mask = decoder.alpha(files[image.name]) if is_own else decoder.mask(files[name])
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


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
