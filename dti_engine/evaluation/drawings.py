"""The ceiling: the world's own drawing of a subject in a prompt's scene, through the autoencoder.

What the model could paint at best. Drawings vary with the seed as photos do: in place, size and
mirroring.
"""

import random
from collections.abc import Sequence

from PIL import Image

from dti_engine.backbones.interface import Backbone
from dti_engine.miniature.world.drawing import draw
from dti_engine.miniature.world.looks import Look
from dti_engine.miniature.world.scenes import Figure, Scene, figure
from dti_engine.miniature.world.subjects import WorldPrompt
from dti_engine.tensors import to_tensor


def scene(prompt: WorldPrompt, look: Look, *, seed: str) -> Scene:
    """What the prompt asks for, with this look as its subject. Whatever it leaves open is plain."""
    rng, asked = random.Random(seed), prompt.asked
    figures: list[Figure] = []
    for place in ("left", "centre", "right"):
        if place == prompt.place:
            shown = look
        elif f"{place}.kind" in asked:
            colour = asked[f"{place}.primary"]
            shown = Look(asked[f"{place}.kind"], colour, colour, "plain")
        else:
            continue
        figures.append(figure(shown, place, asked.get(f"{place}.accessory", "none"), rng))
    return Scene(tuple(figures), asked["background"], asked["style"], rng.random())


def through_autoencoder(backbone: Backbone, scenes: Sequence[Scene]) -> list[Image.Image]:
    """Drawings encoded and decoded, as large as the model paints."""
    side = backbone.image_size
    drawn = [draw(each).resize((side, side), Image.Resampling.LANCZOS) for each in scenes]
    pixels = backbone.decode_latents(backbone.encode_images(to_tensor(drawn)).mean)
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).byte().cpu()
    return [Image.fromarray(each.permute(1, 2, 0).contiguous().numpy()) for each in levels]
