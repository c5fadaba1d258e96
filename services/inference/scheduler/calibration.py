"""How many images in one call of the model are worth it, tried out before the first request.

A large GPU takes hardly longer for eight than for one, and a processor eight times as long: then
those that came first would only wait for those that came later. The first call of each size also
chooses kernels, or compiles, so it is better made now.
"""

from collections.abc import Callable, Iterator, Sequence

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.generation.denoiser import Denoiser, ImageRequest, begin
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler
from dti_engine.training.autotune import measure_s
from services import logs

MOST = 16
"""Images that are tried at most."""

_WORTH = 1.1
"""What twice as many images have to gain in speed, so that each waits for the others."""

_STEPS = 4  # the first is not counted

log = logs.logger(__name__)


def find_cap(backbone: Backbone, most: int = MOST, shapes: Sequence[int] = ()) -> int:
    """Images of the model's own size, all guided, beyond which more are hardly faster."""
    return choose(_rates(backbone, most, shapes))


def choose(rates: Iterator[tuple[int, float]]) -> int:
    """Of images in a call, each twice as many as those before, and how many are then done in a
    second: the last that were worth it. None is asked for behind one that was not.
    """
    best, best_rate = 1, 0.0
    for images, rate in rates:
        if rate < _WORTH * best_rate:
            break
        best, best_rate = images, rate
    return best


def _rates(backbone: Backbone, most: int, shapes: Sequence[int]) -> Iterator[tuple[int, float]]:
    images = 1
    while images <= most:
        try:
            step = _calls(backbone, images, shapes)
            step()
            # The fastest, as other work on the machine only ever makes a step slower.
            took = min(measure_s(backbone.device, step) for _ in range(_STEPS - 1))
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            return
        finally:
            devices.release_memory(backbone.device)
        log.info("images tried out", images=images, seconds=round(took, 4))
        yield images, images / took
        images *= 2


def _calls(backbone: Backbone, images: int, shapes: Sequence[int]) -> Callable[[], object]:
    sampler = LinearScheduler.of(backbone.new_scheduler(), _STEPS)
    size = backbone.image_size, backbone.image_size
    requests = [ImageRequest("a", seed) for seed in range(images)]
    batch = begin(backbone, PromptCache(backbone), requests, sampler, size)
    denoiser = Denoiser(backbone, shapes)
    return lambda: denoiser.step(batch)
