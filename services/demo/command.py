"""`dti demo-service`: the whole service at work, on the miniature that ships with the package."""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dti_engine.cli import options
from dti_engine.cli.console import output_folder, print_json, quiet_libraries, results, say
from dti_engine.files import is_generated_page, require_replaceable
from services.cli.display import JobProgress

if TYPE_CHECKING:
    from services.client.watch import Update

EXAMPLES = (
    "dti demo-service",
    "dti demo-service --output demo-service-output --steps 100",
)

_INTERRUPTED, _TERMINATED = 130, 143  # what shells report of Ctrl-C and of SIGTERM


def demo_service(
    output: options.OutputFolderOption = Path("demo-service-output"),
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Training steps per subject.", show_default="the miniature's recipe"
        ),
    ] = None,
    generation_steps: Annotated[int, typer.Option(min=1, help="Denoising steps of an image.")] = 25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first prompt.")] = 0,
    as_json: options.JsonOption = False,
) -> None:
    """Start a service, have it learn and generate 4 subjects over HTTP, and make a page of it.

    The command needs neither a GPU nor the network. It starts the service as [cyan]dti serve[/]
    does, on a new store in DIR and a free port, and stops it at the end and at Ctrl-C. It shows
    progress and the service's metrics, and writes DIR/gallery.html, DIR/results.json and all
    images. It opens no browser and deletes nothing.
    """
    output = output_folder(output)
    require_replaceable(output / "gallery.html", is_generated_page)
    quiet_libraries(downloading=False)

    from services.demo.figures import lines
    from services.demo.run import DemoServiceSettings, ServiceDemoCallbacks, run

    signal.signal(signal.SIGTERM, _end)
    display = _Display()
    try:
        found = run(
            output,
            DemoServiceSettings(steps, generation_steps, seed),
            ServiceDemoCallbacks(display.on_stage, display.on_update),
        )
    except KeyboardInterrupt:
        say(f"interrupted; the service is stopped, and what it made is in {str(output)!r}")
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        display.close()
    if as_json:
        print_json(found.document())
        return
    for line in lines(found.figures):
        results.print(escape(line), soft_wrap=True)
    results.print(
        f"Open [bold]{escape(str(output / 'gallery.html'))}[/]; every number is in results.json.",
        soft_wrap=True,
    )


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)


class _Display:
    """The name of each stage, and under it the subjects that are being learned."""

    def __init__(self) -> None:
        self._progress: JobProgress | None = None

    def on_stage(self, stage: str) -> None:
        self.close()
        say(stage, label="[bold cyan]>[/] ")

    def on_update(self, update: "Update") -> None:
        from dti_engine.miniature.world.subjects import held_out_subjects
        from services.client.watch import Disconnected, ItemsAdvanced, JobChanged

        match update:
            case JobChanged(job=job):
                if self._progress is None:
                    names = [subject.name for subject in held_out_subjects("demo")]
                    self._progress = JobProgress(job, names)
                    self._progress.__enter__()
                self._progress.update_job(job)
            case ItemsAdvanced(progress=progress) if self._progress:
                self._progress.update_items(progress)
                for index, item in progress.items():
                    if item.steps and item.step >= item.steps:  # counted by the job from now on
                        self._progress.end(index)
            case Disconnected(reason=reason):
                say(f"  {reason}")
            case _:
                return
        if self._progress:
            self._progress.say_totals()

    def close(self) -> None:
        """End the display of a stage; it stays on the screen."""
        if self._progress:
            self._progress.__exit__()
            self._progress = None
