"""Drill 2: a bad head was promoted. It is found by its error and rolled back, and what it has said is corrected."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from deploy.following import stage_counters
from deploy.heads import published
from deploy.settings import Settings
from streams import kafka
from streams.codecs import decode_json, encode_json
from streams.records.outside import Score
from streams.topics import DAY_MS
from tests.drills import truth
from tests.drills.events import START, days, levels
from tests.drills.on_call import drill, replay_of
from tests.drills.stages import drained, logs, loop, stages, wait_until
from tests.e2e.contract import check_contract

pytestmark = [pytest.mark.kafka, pytest.mark.drill]


def test_a_bad_head_is_found_by_its_error_rolled_back_and_what_it_has_said_corrected(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bootstrap, bundle = settings.bootstrap, truth.network(settings)

    def newest_version() -> str:
        return published(bootstrap)[-1].head.version

    def through(day: int) -> bool:
        at = START + (day - 1) * DAY_MS
        return drained(bootstrap, at) and f"-e{at}" in newest_version()

    with stages(settings, loop(settings, bundle)) as workers:
        workers.start()
        kafka.append(bootstrap, [*levels(), *days(0, 6)])
        wait_until(lambda: through(6), "five epochs")
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
            wait_until(lambda: through(8), "its outcomes")

            assert "promotion all" in engineer("heads", "list")
            errors = {each.head.version: each.error(1) or 0.0 for each in published(bootstrap)}
            assert errors[newest_version()] > 2 * errors[good.version]
            assert "× 8.0" in engineer("heads", "diff", good.version, f"{good.version}.1")

            back = ("heads", "rollback", good.version)
            plan = " ".join(engineer(*back, "--dry-run").split())
            assert f"withdrawn {good.version}.1" in plan
            scores = [decode_json(m.value or b"", Score) for m in kafka.read(bootstrap, "trend.scores")]
            withdrawn = {each.head.version for each in published(bootstrap)[5:]}
            assert f"made in trend.scores {sum(s.head in withdrawn for s in scores):,} " in plan
            assert "expected in 7 days" in plan
            newest = newest_version()
            done = " ".join(engineer(*back, "--yes", "--reason", "its error is many times the sales").split())
            again = f"{newest}.1"
            assert f"published {again}" in done
            assert f"version {again}" in " ".join(engineer("heads", "show", again).split())
            (offered,) = re.findall(r"trendstream (replay plan .*--head \S+)", done)
            planned = engineer(*shlex.split(offered))
            replay = replay_of(planned)
            engineer("replay", "run", replay)
            assert "head" in engineer("replay", "diff", replay)
            engineer("replay", "apply", replay, "--yes", "--reason", "what the bad head said")
        sent = truth.corrections(bootstrap)
        assert sent
        assert set(sent.values()) == {1}
        assert "nothing is left to correct" in engineer("replay", "apply", replay, "--dry-run", quietly=True)
        assert stage_counters(bootstrap)["windows"]["late"] == 0, "each burst of days came after a silence"
        # What the bad head had touched is as if it had never been there.
        without = truth.said(truth.from_events(settings, bundle, logs(bootstrap)["trend.events"]))
        truth.require_equal(truth.held(bootstrap), without, 1, 7)

        # And the learner goes on from the head that was gone back to.
        kafka.append(bootstrap, days(8, 9))
        wait_until(lambda: through(9), "the day after")
    assert next(each.head for each in published(bootstrap) if each.head.version == again).theta == good.theta
    scores = [decode_json(m.value or b"", Score) for m in kafka.read(bootstrap, "trend.scores")]
    after = [s for s in scores if s.window_kind == "close" and s.window_end == START + 8 * DAY_MS]
    assert {score.head for score in after} == {again}
    check_contract(logs(bootstrap), settings, bundle)
