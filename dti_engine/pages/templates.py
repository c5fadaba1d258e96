"""Pages that need nothing beside them: their templates, and words that they share."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape


def template(folder: Path) -> Template:
    """`page.html.jinja` of a folder; it may include `style.css`, the look that pages share."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def duration(seconds: float) -> str:
    """As people say it: 3.2 s, 48 s, 5 min 03 s, 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def with_token(prompt: str, placeholder: str) -> Markup:
    """The prompt with its placeholder set off."""
    name = escape(placeholder)
    return Markup(escape(prompt).replace(name, Markup("<b>{}</b>").format(placeholder)))
