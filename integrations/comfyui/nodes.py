"""The nodes, as ComfyUI calls them; the arithmetic is in `tokens`, the requests in `service`."""

import hashlib
from pathlib import Path
from typing import Any

from . import service
from .tokens import (
    PAIR,
    SINGLE_KEY,
    Token,
    fill_prompt,
    parse_token,
    save_token,
    scale,
    slerp,
    with_fidelity,
)

TYPE = "DTI_TOKEN"
_CATEGORY = "dti"


def _fraction(default: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    options = {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip}
    return "FLOAT", options


class LoadServiceToken:
    """Loads the newest token of a subject from the service."""

    RETURN_TYPES = (TYPE,)
    RETURN_NAMES = ("token",)
    FUNCTION = "load"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Loads a token from the service at DTI_SERVER, with the key in DTI_API_KEY."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "The id of a subject, whose newest token is loaded, or of a token."
        return {"required": {"name": ("STRING", {"default": "rex", "tooltip": tooltip})}}

    @classmethod
    def IS_CHANGED(cls, name: str) -> str:
        """Return the id of the newest token, so that a new training runs the graph again."""
        return service.find_token(name.strip())

    def load(self, name: str) -> tuple[Token]:
        return (service.load_token(name.strip()),)


class LoadFileToken:
    """Loads an embedding from ComfyUI's folder of embeddings."""

    RETURN_TYPES = (TYPE,)
    RETURN_NAMES = ("token",)
    FUNCTION = "load"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Loads an embedding from the folder of embeddings, to blend or scale it."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        import folder_paths

        files = folder_paths.get_filename_list("embeddings")
        # A .pt is a pickle, which could run code.
        safe = sorted(file for file in files if file.endswith(".safetensors"))
        return {"required": {"file": (safe,)}}

    @classmethod
    def IS_CHANGED(cls, file: str) -> str:
        """Return the digest of the file, so that new content runs the graph again."""
        return hashlib.sha256(cls._path(file).read_bytes()).hexdigest()

    def load(self, file: str) -> tuple[Token]:
        return (parse_token(self._path(file).read_bytes(), file),)

    @staticmethod
    def _path(file: str) -> Path:
        import folder_paths

        path = folder_paths.get_full_path("embeddings", file)
        if path is None:
            raise ValueError(f"{file!r} is not in the folder of embeddings; choose another file")
        return Path(path)


class SlerpTokens:
    """Blends two tokens along the sphere."""

    RETURN_TYPES = (TYPE,)
    RETURN_NAMES = ("token",)
    FUNCTION = "blend"
    CATEGORY = _CATEGORY
    DESCRIPTION = "Blends two tokens of one model by spherical interpolation."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "a": (TYPE,),
                "b": (TYPE,),
                "t": _fraction(0.5, "0 is the first token, 1 the second."),
            }
        }

    def blend(self, a: Token, b: Token, t: float) -> tuple[Token]:
        return (slerp(a, b, t),)


class ScaleToken:
    """Changes the magnitude of a token."""

    RETURN_TYPES = (TYPE,)
    RETURN_NAMES = ("token",)
    FUNCTION = "scaled"
    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "Multiplies the length of the token's vectors. Above 1 it drowns the other words of a "
        "prompt; tokens of standard Textual Inversion often need less than 1."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        options = {"default": 1.0, "min": 0.05, "max": 10.0, "step": 0.05}
        return {"required": {"token": (TYPE,), "magnitude": ("FLOAT", options)}}

    def scaled(self, token: Token, magnitude: float) -> tuple[Token]:
        return (scale(token, magnitude),)


class SetFidelity:
    """Moves a token between its class word and itself."""

    RETURN_TYPES = (TYPE,)
    RETURN_NAMES = ("token",)
    FUNCTION = "moved"
    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "Moves the token towards a common word for its subject: less of the subject, and more room "
        "for the rest of the prompt."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "token": (TYPE,),
                "clip": ("CLIP",),
                "word": ("STRING", {"default": "dog", "tooltip": "The class word, such as dog."}),
                "fidelity": _fraction(0.8, "1 is the token, 0 the word."),
            }
        }

    def moved(self, token: Token, clip: Any, word: str, fidelity: float) -> tuple[Token]:
        return (with_fidelity(token, _word_rows(clip, word, token), fidelity),)


class WriteTokenIntoPrompt:
    """Puts a token into the text of a prompt."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("prompt",)
    FUNCTION = "write"
    CATEGORY = _CATEGORY
    DESCRIPTION = (
        "Writes the token into the folder of embeddings, and its name into the text at {}. Connect "
        "the result with the text of CLIP Text Encode."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        text = {"default": "a photo of a {} on a beach", "multiline": True}
        return {
            "required": {
                "token": (TYPE,),
                "text": ("STRING", text),
                "name": (
                    "STRING",
                    {"default": "rex", "tooltip": "The beginning of the file name."},
                ),
            }
        }

    def write(self, token: Token, text: str, name: str) -> tuple[str]:
        import folder_paths

        folder = Path(folder_paths.get_folder_paths("embeddings")[0])
        return (fill_prompt(text, save_token(token, name, folder)),)


def _word_rows(clip: Any, word: str, token: Token) -> Token:
    """Return the rows of a word's pieces in each text encoder of a CLIP of ComfyUI.

    ComfyUI names encoders "l", "g" and "h" in token lists, and clip_l, clip_g, clip_h as modules.

    Raises: ValueError if the word is empty, or the token is of another model.
    """
    rows: Token = {}
    for name, sections in clip.tokenize(word).items():
        model = getattr(clip.cond_stage_model, f"clip_{name}", None)
        if model is None:
            continue
        special = set(model.special_tokens.values())
        ids = [entry[0] for section in sections for entry in section if entry[0] not in special]
        # SDXL's second encoder pads by 0, which is "!" and no mark.
        while ids and ids[-1] == 0:
            ids.pop()
        if not ids:
            raise ValueError("the word is empty; give a common word for the subject, such as dog")
        table = model.transformer.get_input_embeddings().weight
        rows[f"clip_{name}"] = table[ids].detach().float().cpu()
    if set(token) == {SINGLE_KEY} and len(rows) == 1:
        rows = {SINGLE_KEY: next(iter(rows.values()))}
    widths = [{key: each.shape[-1] for key, each in some.items()} for some in (token, rows)]
    if widths[0] != widths[1]:
        raise ValueError(
            f"the token is for encoders of the widths {widths[0]}, and this CLIP has {widths[1]}; "
            f"connect the CLIP of the model that it was trained with ({', '.join(PAIR)} is SDXL)"
        )
    return rows


NODE_CLASS_MAPPINGS: dict[str, type] = {
    "DTILoadServiceToken": LoadServiceToken,
    "DTILoadFileToken": LoadFileToken,
    "DTISlerpTokens": SlerpTokens,
    "DTIScaleToken": ScaleToken,
    "DTISetFidelity": SetFidelity,
    "DTIWriteTokenIntoPrompt": WriteTokenIntoPrompt,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DTILoadServiceToken": "Load Token (service)",
    "DTILoadFileToken": "Load Token (file)",
    "DTISlerpTokens": "Slerp Tokens",
    "DTIScaleToken": "Token Magnitude",
    "DTISetFidelity": "Token Fidelity",
    "DTIWriteTokenIntoPrompt": "Write Token into Prompt",
}
