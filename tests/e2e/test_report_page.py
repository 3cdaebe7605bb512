"""The report in a real browser, opened from a file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.report import write_report
from tests.unit.report_example import example_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --virtual-time-budget=10000 --host-resolver-rules=MAP*~NOTFOUND"
)


@pytest.fixture
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser to open the report in: install one of {', '.join(BROWSERS)}")
    return found


def test_every_chart_is_drawn_from_the_file_alone(browser: str, tmp_path: Path) -> None:
    report = example_report()
    page, _ = write_report(report, tmp_path)
    options = [option.replace("MAP*~", "MAP * ~") for option in OPTIONS.split()]
    command = [browser, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    drawn = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    charts = re.findall(r'id="(chart-\d+)"', drawn)
    assert len(charts) == len(set(charts)) == len(report.products) + 4
    assert drawn.count('class="plot-container') == len(charts)
    for series in report.products:
        assert re.search(rf'class="gtitle"[^>]*>{re.escape(series.title)}<', drawn), series.title
    assert drawn.count('class="point"') > 500  # dots of sales, bars
