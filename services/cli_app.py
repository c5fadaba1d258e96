"""The `dti` program: the commands of the engine and of the service."""

from dti_engine.cli.app import app
from dti_engine.cli.console import examples, mount, print_any_text
from dti_engine.cli.generate import register_remote_generator
from services.cli import erasures, jobs, keys, serve, store, tokens
from services.cli import generate_bulk as bulk_generation
from services.cli import submit as submission
from services.cli.generate import ServiceGenerator
from services.demo import command as demonstration

_SERVICE = "Service"

register_remote_generator(ServiceGenerator())
mount(
    app,
    demonstration.demo_service,
    demonstration.EXAMPLES,
    name="demo-service",
    panel=_SERVICE,
)
mount(app, serve.serve, serve.EXAMPLES, panel=_SERVICE)
mount(app, submission.submit, submission.EXAMPLES, panel=_SERVICE)
mount(
    app,
    bulk_generation.generate_bulk,
    bulk_generation.EXAMPLES,
    name="generate-bulk",
    panel=_SERVICE,
)
mount(app, jobs.jobs, jobs.LIST_EXAMPLES, panel=_SERVICE)
mount(app, jobs.job, jobs.SHOW_EXAMPLES, panel=_SERVICE)
mount(app, jobs.cancel, jobs.CANCEL_EXAMPLES, panel=_SERVICE)
mount(app, jobs.retry, jobs.RETRY_EXAMPLES, panel=_SERVICE)
mount(app, tokens.tokens, tokens.EXAMPLES, panel=_SERVICE)
mount(app, jobs.delete, jobs.DELETE_EXAMPLES, panel=_SERVICE)
mount(app, erasures.uploads, erasures.UPLOADS_EXAMPLES, panel=_SERVICE)
mount(app, erasures.erase, erasures.ERASE_EXAMPLES, panel=_SERVICE)
app.add_typer(
    keys.app, name="keys", rich_help_panel=_SERVICE, epilog=examples(*keys.CREATE_EXAMPLES)
)
app.add_typer(
    store.app, name="store", rich_help_panel=_SERVICE, epilog=examples(*store.CHECK_EXAMPLES)
)


def main() -> None:
    """Run the program."""
    print_any_text()
    app()
