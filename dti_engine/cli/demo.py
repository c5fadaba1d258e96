"""`dti demo`: the whole job on the miniature that ships with the package."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.markup import escape
from rich.table import Table

from dti_engine.cli import options
from dti_engine.cli.console import output_folder, print_json, quiet_libraries, results, say
from dti_engine.cli.progress import ProgressBar, TrainingProgress
from dti_engine.files import is_generated_page, require_replaceable
from dti_engine.recipes import miniature

if TYPE_CHECKING:
    from dti_engine.demo.results import LocalDemoResults
    from dti_engine.training.metrics import StepMetrics

EXAMPLES = (
    "dti demo",
    "dti demo --output demo-output --steps 100 --seed 7",
)


_StepsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Training steps per subject.", show_default="the miniature's recipe"),
]
_GenerationStepsOption: TypeAlias = Annotated[
    int, typer.Option(min=1, help="Denoising steps of an image.")
]
_SeedOption: TypeAlias = Annotated[
    int, typer.Option(min=0, help="Seed of the first training and of the first prompt.")
]


def demo(
    output: options.OutputFolderOption = Path("demo-output"),
    steps: _StepsOption = None,
    generation_steps: _GenerationStepsOption = 25,
    seed: _SeedOption = 0,
    weights: options.MiniatureOption = "miniature",
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Learn 4 subjects that the model has never seen, generate and score images, and write a page.

    Needs neither a GPU nor the network: a small trained model ships with the package. Shows
    progress, and writes DIR/index.html, DIR/sheet.png, DIR/results.json, the tokens and all
    images.
    """
    output = output_folder(output)
    steps = steps or miniature().steps
    quiet_libraries(downloading=False)

    from dti_engine.demo.run import DemoCallbacks, run
    from dti_engine.devices import find_device, find_dtype

    require_replaceable(output / "index.html", is_generated_page)
    found_device = find_device(device)

    with closing(_Display(steps)) as display:
        callbacks = DemoCallbacks(
            display.on_stage, display.on_training_step, display.on_generation_step
        )
        demo_results = run(
            output,
            weights=weights,
            device=found_device,
            dtype=find_dtype(dtype, found_device),
            steps=steps,
            generation_steps=generation_steps,
            seed=seed,
            callbacks=callbacks,
        )
    if as_json:
        print_json(demo_results.document())
        return
    results.print(_summary(demo_results))
    results.print(
        f"Open [bold]{escape(str(output / 'index.html'))}[/]; every number is in results.json.",
        soft_wrap=True,
    )


class _Display:
    """Shows the name of each stage, and a progress bar for its steps."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._bars = ExitStack()
        self._training: TrainingProgress | None = None
        self._generation: ProgressBar | None = None

    def on_stage(self, stage: str) -> None:
        self.close()
        say(stage, label="[bold cyan]>[/] ")

    def on_training_step(self, reports: list["StepMetrics"]) -> None:
        if self._training is None:
            # All have a slot from the beginning.
            count = len({each.subject_id for each in reports})
            progress = TrainingProgress(count, steps=self._steps)
            self._training = self._bars.enter_context(progress)
        self._training.on_step(reports)
        for report in reports:
            if report.step == self._steps:
                self._training.on_ended(report.subject_id, "finished")

    def on_generation_step(self, done: int, total: int) -> None:
        if self._generation is None:
            self._generation = self._bars.enter_context(ProgressBar("generating"))
        self._generation.update(done, total)

    def close(self) -> None:
        """End the bars of a stage; they stay on the screen."""
        self._bars.close()
        self._training = self._generation = None


def _summary(demo_results: "LocalDemoResults") -> Table:
    table = Table(
        "subject", "method", "subject score", "prompt score", "angle to the prior", "length"
    )
    for each in demo_results.all_subjects:
        table.add_row(
            each.name,
            {"dti": "DTI", "ti": "standard TI"}[each.method],
            f"{each.subject_score:.2f}",
            f"{each.prompt_score:.2f}",
            f"{each.curve.prior_angle_deg[-1]:.1f}°",
            f"{each.curve.norm[-1]:.3f}",
        )
    table.caption = (
        f"means of {len(demo_results.baseline.images)} images each; two reference images of one "
        f"subject are {demo_results.scale.same_subject:.2f} alike, of different ones "
        f"{demo_results.scale.other_subject:.2f}"
    )
    return table
