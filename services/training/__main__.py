"""`python -m services.training`: one training worker as a plain process, without Ray.

SIGTERM and SIGINT drain it: it checkpoints its subjects, and other workers go on with them.
"""

import sys

from services import logs, metrics
from services.errors import SettingsError
from services.metrics import PrometheusMetrics
from services.process import exit_on_error, on_termination
from services.settings import WorkerProcessSettings
from services.training.pool import WorkerSpec


def main() -> None:
    """Train subjects of one pool until the process gets a signal."""
    logs.configure("worker")
    metrics.use(PrometheusMetrics(process="worker"))
    with exit_on_error():
        settings = WorkerProcessSettings.read(sys.argv[1:])
        # Imported here, since it loads torch, and --help does not need it.
        from services.training.factory import open_worker

        models = settings.served_models()
        if settings.pool not in models:
            raise SettingsError(
                f"no served model is called {settings.pool!r}: there are {', '.join(models)}"
            )
        worker = open_worker(WorkerSpec.of(settings, settings.pool, models[settings.pool]))
    on_termination(worker.drain)
    worker.run()
    sys.exit(0)


if __name__ == "__main__":
    main()
