"""The demo's page: one HTML file that needs nothing beside it."""

from pathlib import Path

from dti_engine.pages.pictures import data_uri
from dti_engine.pages.templates import duration, template, with_token
from services.demo.results import Results


def render(results: Results, output: Path) -> str:
    """The page; pictures are taken from the output folder and put into it."""

    def png_uri(file: str) -> str:
        return data_uri((output / file).read_bytes(), "image/png")

    return template(Path(__file__).parent).render(
        results=results,
        data_uri=png_uri,
        duration=duration,
        score="{:.2f}".format,
        with_token=with_token,
    )
