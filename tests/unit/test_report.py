from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
from rich.console import Console

from deploy.report import RunReport, print_tables, write_report
from deploy.report_page import render_page
from tests.unit.report_example import example_report

KEYS = ["broker", "data", "events", "windows", "scores", "heads", "outcomes", "error", "latency_ms", "seconds"]


def page_text(report: RunReport) -> str:
    """The page without its scripts and style."""
    page = render_page(report)
    return re.sub(r"<(script|style)>.*?</\1>", "", page, flags=re.DOTALL)


def tables(report: RunReport) -> str:
    out = io.StringIO()
    print_tables(report, Console(file=out, width=160))
    return out.getvalue()


def test_the_json_has_the_promised_keys_and_the_numbers_given(tmp_path: Path) -> None:
    report = example_report()
    assert [p.name for p in write_report(report, tmp_path / "new" / "folder")] == ["report.html", "report.json"]
    written = json.loads((tmp_path / "new" / "folder" / "report.json").read_text())
    assert list(written) == KEYS
    assert set(written["events"]) == {"produced", "accepted", "repeated", "dead"}
    assert set(written["error"]["7"]) == {"trendstream", "frozen", "moving_average", "seasonal_naive"}
    assert set(written["latency_ms"]["order_to_score"]) == {"p50", "p95", "p99"}
    assert written["scores"] == report.scores
    assert written["error"]["28"]["seasonal_naive"] is None  # NaN is no JSON


def test_numbers_of_numpy_can_be_written() -> None:
    report = dataclasses.replace(example_report(), scores=np.int64(3), seconds={"all": np.float32(0.5)})  # type: ignore[arg-type]
    assert json.loads(json.dumps(report.as_json()))["seconds"] == {"all": 0.5}


def test_counts_that_do_not_add_up_are_shown_and_not_hidden() -> None:
    good = example_report()
    bad = dataclasses.replace(good, events={"produced": 10, "accepted": 7, "repeated": 1, "dead": 1})
    assert not good.contradictions()
    assert "do not add up" not in page_text(good) + tables(good)
    for shown in (page_text(bad), tables(bad)):
        assert "do not add up" in shown
        assert "10 events were produced" in shown


def test_every_number_in_the_tables_is_one_of_the_report() -> None:
    shown = tables(example_report())
    for expected in ("19.4 in 7 d", "83%", "204", "146", "× 1.41", "× 0.00", "0.541", "0.791", "–"):
        assert expected in shown
    other = dataclasses.replace(example_report(), surging=(), falling=(), reorders=(), bids=(), error={})
    assert not re.search(r"\d\.\d", tables(other))
    assert "Surging now, 31 December 2017: none" in tables(other)


def test_the_page_shows_the_counts_of_the_run_and_no_other() -> None:
    text = page_text(example_report())
    for expected in ("109,843", "109,640", "81,234", "274", "228,111", "412 ms", "1.38 s", "kafka 4.1.0", "141.9 s"):
        assert expected in text
    report = RunReport("in-process", {"name": "nothing"}, {}, {}, 0, {}, 0, {}, {}, {})
    numbers = set(re.findall(r"\d[\d.,]*\d|\d", re.sub(r"<[^>]*>", " ", page_text(report))))
    # What is left are the words of the explanations: 80 % band, 0.5 means half, 28 days.
    assert numbers <= {"0", "80", "0.5", "28"}


def test_the_best_of_each_row_is_the_bold_one() -> None:
    best = re.findall(r'<b class="best">([\d.]+)</b>', page_text(example_report()))
    assert best == ["0.541", "0.331", "0.262"]


def test_simulated_data_is_labelled_and_real_data_is_not() -> None:
    text = page_text(example_report())
    assert "Simulated data:" in text
    assert "stock levels are simulated" in text
    assert "sales are simulated by the authors" in text
    data = {k: v for k, v in example_report().data.items() if k not in ("simulated", "about")}
    assert "imulated" not in page_text(dataclasses.replace(example_report(), data=data))
    assert "imulated" not in tables(dataclasses.replace(example_report(), data=data))


def test_the_page_loads_nothing_and_a_title_cannot_break_it() -> None:
    evil = "</script><script>alert(1)</script><img src=x>"
    report = example_report()
    series = dataclasses.replace(report.products[0], title=evil)
    row = dataclasses.replace(report.surging[0], title=evil, reason=evil)
    page = render_page(dataclasses.replace(report, products=[series], surging=[row]))
    assert evil not in page
    assert "<img src=x>" not in page
    assert page.count("</script>") == 2  # plotly, and the charts
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//", page)
