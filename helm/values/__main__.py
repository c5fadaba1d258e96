"""`python -m helm.values`: write the generated files of the chart."""

from pathlib import Path

from helm.values.documents import files

CHART = Path(__file__).parents[1] / "dti"


def main() -> None:
    """Write the files that are not as they should be, and name them."""
    for name, text in files().items():
        path = CHART / name
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
