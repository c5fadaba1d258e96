"""What others wrote is shown on the terminal, and never controls it."""

import io

import pytest
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from dti_engine.cli.console import PlainConsole

HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202egpj.\u2066 end"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_control_characters_are_shown_as_escapes_in_lines_and_tables(is_terminal: bool) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=is_terminal, width=200, color_system=None)
    table = Table("name")
    table.add_row(escape(HOSTILE))
    console.print(table)
    console.print(f"[bold]note:[/] {escape(HOSTILE)}", soft_wrap=True)
    text = file.getvalue()
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert not set("\x07\x9b\r\u202e\u2066") & set(text)
    # A cell is cut at its width, which was measured before. The bell is dropped by rich itself.
    assert text.count(r"\x1b]0;title\x1b[2J") == 2
    assert r"note: \x1b]0;title\x1b[2J\x9b31m\u202egpj.\u2066 end" in text


def test_styles_and_the_cursor_of_the_program_itself_still_work() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, force_terminal=True, color_system="standard", width=80)
    console.print("[red]failed[/]", "M\u00fcller \u732b")
    with Progress(console=console, auto_refresh=False) as progress:
        progress.add_task("learning", total=2)
        progress.refresh()
    text = file.getvalue()
    assert "\x1b[31mfailed" in text
    assert "M\u00fcller \u732b" in text
    assert "\x1b[2K" in text
    assert r"\x1b" not in text
