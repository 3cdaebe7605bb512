"""Drill 2, up to the rollback: a bad head was promoted. It is found by its error, and what it touched is listed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from deploy.heads import published
from deploy.settings import Settings
from model.registry import untrained_bundle
from streams import kafka
from streams.codecs import encode_json
from streams.topics import DAY_MS
from tests.drills.events import START, days
from tests.drills.on_call import drill
from tests.drills.stages import drained, loop, stages, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.drill]


def test_a_bad_head_is_found_by_its_error_and_a_rollback_says_what_it_touched(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap = settings.bootstrap
    bundle = untrained_bundle()

    def newest_version() -> str:
        return published(bootstrap)[-1].head.version

    def through(day: int) -> bool:
        return drained(bootstrap, START + (day - 1) * DAY_MS)

    with stages(settings, loop(settings, bundle)) as workers:
        workers.start()
        kafka.append(bootstrap, days(0, 6))
        wait_until(lambda: through(6) and newest_version().endswith(f"-e{START + 5 * DAY_MS}"), "five epochs")
        good = published(bootstrap)[-1].head
        # Somebody installs a head that says eight times as much of everything.
        bad = msgspec.structs.replace(good, version="tuned-by-hand", theta=[[2.08, *r[1:]] for r in good.theta])
        file = tmp_path / "head.json"
        file.write_bytes(encode_json(bad))
        with drill("2-bad-head", capsys) as engineer:
            by_hand = ("heads", "promote", "--file", str(file), "--yes", "--reason", "a better one")
            promoted = " ".join(engineer(*by_hand, quietly=True).split())
            assert f"published {good.version}.1" in promoted
            kafka.append(bootstrap, days(6, 8))
            wait_until(lambda: through(8) and newest_version().endswith(f"-e{START + 7 * DAY_MS}"), "its outcomes")

            listed = engineer("heads", "list")
            assert f"{good.version}.1" in listed
            assert "promotion all" in listed
            errors = {each.head.version: each.error(1) or 0.0 for each in published(bootstrap)}
            assert errors[newest_version()] > 2 * errors[good.version]
            assert "× 8.0" in engineer("heads", "diff", good.version, f"{good.version}.1")

            back = ("heads", "rollback", good.version)
            plan = " ".join(engineer(*back, "--dry-run").split())
            assert f"withdrawn {good.version}.1" in plan
