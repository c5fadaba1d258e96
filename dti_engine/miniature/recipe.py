"""Train the miniature's weights from nothing.

Stages, in order:

  images        draw the world's examples
  autoencoder   64 x 64 pixels <-> 16 x 16 latents
  text_encoder  a tokenizer of the world's words, and a CLIP that learns to read captions
  scorer        learns to read images; it scores all that follows
  denoiser      learns to generate latents from encoded captions; takes most of the time
  export        weights in half precision and in the ordinary diffusers layout
  examination   scores the model against captions, and completes the model card

The work folder keeps images, checkpoints and times. An interrupted run resumes from its last
checkpoints, which are written every 250 steps; a complete run is exported and examined again.
"""

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from dti_engine.miniature.progress import Display
from dti_engine.miniature.training.stages import SIZES, Size, Stages

_COMMAND = "python -m dti_engine.miniature.recipe"
_PARTS = ("images", "autoencoder", "text_encoder", "scorer", "denoiser")
_EXAMPLES = f"""\
examples:
  {_COMMAND} --work ~/miniature --size cpu --out ~/miniature/weights
  {_COMMAND} --work ~/miniature --stage scorer
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog=_COMMAND,
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--work",
        metavar="DIR",
        type=Path,
        required=True,
        help="one for each size: 2 GB (cpu), 7 GB (gpu)",
    )
    add(
        "--size",
        choices=SIZES,
        default="gpu" if torch.cuda.is_available() else "cpu",
        help="cpu: hours on two cores; gpu: the same, trained longer (default here: %(default)s)",
    )
    add(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path(__file__).parent / "weights",
        help="where the model goes (default: the place from which the package ships it)",
    )
    add(
        "--stage",
        choices=(*_PARTS, "export", "examination"),
        default="examination",
        help="do this one and what it needs, then stop (default: %(default)s, so everything)",
    )
    add("--denoiser-steps", metavar="N", type=int, help="train it longer or shorter than its size")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Display(Console(stderr=True)) as display:
        stages = Stages(_size(options), options.work, device, display.report)
        if options.stage in _PARTS:
            getattr(stages, options.stage)
            return
        stages.export(options.out, command=_command(options))
        if options.stage == "examination":
            stages.examine(options.out)


def _size(options: argparse.Namespace) -> Size:
    size = SIZES[options.size]
    if not options.denoiser_steps:
        return size
    schedule = replace(size.denoiser.schedule, steps=options.denoiser_steps)
    return replace(size, denoiser=replace(size.denoiser, schedule=schedule))


def _command(options: argparse.Namespace) -> str:
    """Return the command as it was typed, without the parts that are specific to this machine."""
    steps = f" --denoiser-steps {options.denoiser_steps}" if options.denoiser_steps else ""
    return f"{_COMMAND} --size {options.size}{steps} --work DIR"


if __name__ == "__main__":
    main()
