"""Captions that other trainers keep beside images, as training prompts with the placeholder.

`rex.txt` and `rex.caption` are those of `rex.jpg` (kohya's scripts, OneTrainer, hosted trainers),
and `metadata.jsonl` or `metadata.csv` lists those of a folder (Hugging Face's `imagefolder`). A
caption becomes a training prompt where it names the subject: there stands the placeholder then.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Self

CAPTION_SUFFIXES = (".txt", ".caption")  # the first has priority
METADATA_FILES = ("metadata.jsonl", "metadata.csv")

_CAPTION_FIELDS = ("text", "caption", "prompt")
_TRIGGERS = ("[trigger]", "[name]", "TOK", "sks", "ohwx")  # of ai-toolkit, A1111, Replicate, papers
# A folder may have such a name, and then so has the placeholder; in a caption they mean no subject.
_COMMON_WORDS = frozenset(
    {"a", "image", "me", "my", "photo", "picture", "portrait", "style", "the"}
)
_MENTION = re.compile(r"<[^<>\s]*>")
_MAX_CAPTION = 300  # characters, as in bundle.json; more than any text encoder reads
# Text encoders read 77 positions and less, and the placeholder must be among them.
_MAX_BEFORE = 100


@dataclass(frozen=True)
class SubjectWords:
    """The words by which a caption may name the subject.

    names: they mean this subject alone, such as `<rex>` or kohya's `sks dog`.
    classes: they mean its class, such as `dog`.
    """

    names: Sequence[str] = ()
    classes: Sequence[str] = ()

    @classmethod
    def of(cls, names: Iterable[str | None], classes: Iterable[str | None]) -> Self:
        """Return the words that are given, each once; a placeholder is also a name without <>."""
        given = [name for name in names if name]
        bare = [name.strip("<>") for name in given]
        all_names = [*given, *(name for name in bare if name.lower() not in _COMMON_WORDS)]
        return cls(
            tuple(dict.fromkeys(all_names)), tuple(dict.fromkeys(word for word in classes if word))
        )

    def training_prompt(self, caption: str) -> str | None:
        """Return the caption with `{}` in place of the subject, or None if it does not name it.

        A name goes before a class word, and takes the class word behind it along: both `sks dog`
        and `dog` become `{}`. Without a name, the first mention of the class is the subject.
        """
        prompt = _clean(caption)
        if "{}" not in prompt:
            classes = [re.escape(word) for word in self.classes if word]
            names = [re.escape(word) for word in (*self.names, *_TRIGGERS) if word]
            names.sort(key=len, reverse=True)  # `sks dog` before `sks`
            behind = f"(?:\\s+(?:{'|'.join(classes)}))?" if classes else ""
            prompt, count = _whole(f"(?:{'|'.join(names)}){behind}").subn("{}", prompt)
            if not count and classes:
                prompt, count = _whole("|".join(classes)).subn("{}", prompt, count=1)
            if not count:
                return None
        prompt = prompt[:_MAX_CAPTION]
        is_late = "{}" not in prompt or prompt.index("{}") > _MAX_BEFORE
        return None if is_late or _MENTION.search(prompt) else prompt


def _whole(pattern: str) -> re.Pattern[str]:
    """Return a pattern of whole words: `dog` is not in `hot-dog`, but in `dog's`."""
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)


def _clean(caption: str) -> str:
    """Return the first line with a text, as kohya's scripts read it, without control characters."""
    lines = (
        " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", line).split()) for line in caption.split("\n")
    )
    return next((line for line in lines if line), "")


@dataclass(frozen=True)
class Sidecars:
    """Captions as they stand in the files beside images.

    captions: image -> (file, caption).
    files: every file that was read as captions.
    damaged: file -> what is wrong with it.
    """

    captions: Mapping[str, tuple[str, str]]
    files: frozenset[str]
    damaged: Mapping[str, str]


def read_sidecars(files: Mapping[str, bytes], images: Sequence[str]) -> Sidecars:
    """Return the captions of these images from the texts among the files of a bundle."""
    captions, used, damaged = dict[str, tuple[str, str]](), set[str](), dict[str, str]()
    for metadata in METADATA_FILES:
        if metadata in files:
            used.add(metadata)
            try:
                for name, text in _metadata(metadata, files[metadata]):
                    for image in {name, PurePosixPath(name).name} & {*images}:
                        captions[image] = metadata, text
            except (ValueError, RecursionError, csv.Error) as error:
                damaged[metadata] = f"cannot be read as captions ({error}); its captions are unused"
    # `IMG_1.JPG` may have `img_1.txt`, or `IMG_1.TXT`.
    names = {name.casefold(): name for name in files}
    for suffix in reversed(CAPTION_SUFFIXES):
        for image in images:
            path = PurePosixPath(image)
            for key in (f"{image}{suffix}", str(path.with_suffix(suffix))):
                name = names.get(key.casefold(), image)
                if name != image:
                    used.add(name)
                    captions[image] = name, _decoded(files[name])
    return Sidecars(captions, frozenset(used), damaged)


def _metadata(name: str, data: bytes) -> Iterator[tuple[str, str]]:
    """Yield (image, caption) of each line. Raises: ValueError or csv.Error if it is damaged."""
    text = _decoded(data)
    if name.endswith(".csv"):
        rows: Iterator[Any] = csv.DictReader(io.StringIO(text))
    else:
        rows = (json.loads(line) for line in text.splitlines() if line.strip())
    for row in rows:
        if not isinstance(row, dict):
            raise ValueError("each line must be an object")
        caption = next((row[key] for key in _CAPTION_FIELDS if isinstance(row.get(key), str)), None)
        image = row.get("file_name")
        if isinstance(image, str) and caption is not None:
            yield image.removeprefix("./"), caption


def _decoded(data: bytes) -> str:
    """Return a text file's content; what is not UTF-8 is read as Windows' editors write it."""
    try:
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
