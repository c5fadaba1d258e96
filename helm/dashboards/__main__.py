"""`python -m helm.dashboards`: write the dashboards of the chart."""

from pathlib import Path

from helm.dashboards.pages import DASHBOARDS

FOLDER = Path(__file__).parents[1] / "dti/files/dashboards"


def main() -> None:
    """Write the files that are not as they should be, and name them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        path = FOLDER / f"{dashboard.name}.json"
        if not path.exists() or path.read_text() != dashboard.text():
            path.write_text(dashboard.text())
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
