"""Where commands print tables."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 150  # of tables in a file or a pipe, where nobody's window is too narrow


def report_console() -> Console:
    """Standard output, as wide as the terminal, or wide enough for tables where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
