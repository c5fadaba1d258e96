"""Calibration of the batch size: measures throughput before the first request.

On a large GPU a batch of eight takes hardly longer than one image; on a processor it takes eight
times as long, so that batching would only delay the first images. The first call of each size also
selects kernels, or compiles, which is better done before the first request.
"""

from collections.abc import Callable, Iterator, Sequence

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.generation.denoiser import Denoiser, ImageRequest, begin
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler
from dti_engine.training.autotune import measure_s
from services import logs
from services.contracts.models import MAX_CALIBRATED_BATCH_SIZE

MAX_BATCH_SIZE = MAX_CALIBRATED_BATCH_SIZE
"""The largest batch that calibration tries."""

_MIN_SPEEDUP = 1.1
"""The gain in throughput that makes a batch of twice the size worth its latency."""

_STEPS = 4
"""Denoising steps of a trial; the first one warms up and is not timed."""

log = logs.logger(__name__)


def calibrate_batch_size(
    backbone: Backbone, limit: int = MAX_BATCH_SIZE, shapes: Sequence[int] = ()
) -> int:
    """Return the largest batch size that still pays off for images of the model's own size.

    Args:
        backbone: The model; all trial images are guided.
        limit: The largest batch to try.
        shapes: Row counts that the model is compiled for, as in `Denoiser`.
    """
    return choose_batch_size(_measure_throughputs(backbone, limit, shapes))


def choose_batch_size(throughputs: Iterator[tuple[int, float]]) -> int:
    """Return the last batch size whose throughput is enough above that of the one before.

    Args:
        throughputs: Batch sizes, each twice the one before, with their images per second. Nothing
            is taken from it beyond the first size that does not pay off.
    """
    best_size, best_throughput = 1, 0.0
    for size, throughput in throughputs:
        if throughput < _MIN_SPEEDUP * best_throughput:
            break
        best_size, best_throughput = size, throughput
    return best_size


def _measure_throughputs(
    backbone: Backbone, limit: int, shapes: Sequence[int]
) -> Iterator[tuple[int, float]]:
    """Yield batch sizes and their images per second, up to `limit` or the end of memory."""
    size = 1
    while size <= limit:
        try:
            step = _trial_step(backbone, size, shapes)
            step()
            # The minimum, because other work on the machine only ever makes a step slower.
            duration_s = min(measure_s(backbone.device, step) for _ in range(_STEPS - 1))
        except (RuntimeError, MemoryError) as error:
            if not devices.is_out_of_memory(error):
                raise
            return
        finally:
            devices.release_memory(backbone.device)
        log.info("batch size measured", images=size, step_s=round(duration_s, 4))
        yield size, size / duration_s
        size *= 2


def _trial_step(backbone: Backbone, batch_size: int, shapes: Sequence[int]) -> Callable[[], object]:
    """Return a function that takes one denoising step of a new batch."""
    schedule = LinearScheduler.of(backbone.new_scheduler(), _STEPS)
    image_size = backbone.image_size, backbone.image_size
    images = [ImageRequest("a", seed) for seed in range(batch_size)]
    batch = begin(backbone, PromptCache(backbone), images, schedule, image_size)
    denoiser = Denoiser(backbone, shapes)
    return lambda: denoiser.step(batch)
