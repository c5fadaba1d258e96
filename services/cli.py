"""The `dti` program: the commands of the engine, and those of the service."""

from dti_engine.cli import app
from dti_engine.commands.terminal import examples, mount
from services.commands import deletion, jobs, keys, painting, serve, submission, tokens

_SERVICE = "Service"

mount(app, serve.serve, serve.EXAMPLES, panel=_SERVICE)
mount(app, submission.submit, submission.EXAMPLES, panel=_SERVICE)
mount(app, painting.paint, painting.EXAMPLES, panel=_SERVICE)
mount(app, jobs.jobs, jobs.LIST_EXAMPLES, panel=_SERVICE)
mount(app, jobs.job, jobs.SHOW_EXAMPLES, panel=_SERVICE)
mount(app, jobs.cancel, jobs.CANCEL_EXAMPLES, panel=_SERVICE)
mount(app, jobs.retry, jobs.RETRY_EXAMPLES, panel=_SERVICE)
mount(app, tokens.tokens, tokens.EXAMPLES, panel=_SERVICE)
mount(app, deletion.delete, deletion.EXAMPLES, panel=_SERVICE)
app.add_typer(
    keys.app, name="keys", rich_help_panel=_SERVICE, epilog=examples(*keys.CREATE_EXAMPLES)
)


def main() -> None:
    """Entry point of the `dti` script."""
    app()
