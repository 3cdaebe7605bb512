"""Settings: defaults, what the environment changes, and what a wrong value says."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from deploy.settings import DEVELOPMENT_SECRET, Settings, cautions, load_settings, variable
from streams.errors import ConfigurationError


def test_without_an_environment_everything_has_a_default_that_runs_on_one_machine() -> None:
    settings = load_settings()
    assert settings.bootstrap == ""
    assert settings.partitions == 4
    assert settings.database_url.startswith("sqlite:///")
    assert settings.transaction_timeout_ms <= 10_000
    assert cautions(settings) == []


def test_the_default_platforms_have_calendars_and_currencies() -> None:
    calendars = load_settings().calendars()
    assert {name: (p.name, p.timezone, p.currency) for name, p in calendars.items()} == {
        "shop": ("shop", "UTC", "EUR"),
        "complete-journey": ("complete-journey", "America/New_York", "USD"),
        "olist": ("olist", "America/Sao_Paulo", "BRL"),
        "uci": ("uci", "Europe/London", "GBP"),
    }


def test_the_environment_wins_over_defaults_and_an_option_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRENDSTREAM_PARTITIONS", "8")
    monkeypatch.setenv("TRENDSTREAM_PLATFORMS", '{"mine": {"timezone": "Asia/Tokyo", "currency": "JPY"}}')
    monkeypatch.setenv("TRENDSTREAM_PICTURE_ROOTS", '["/a", "/b"]')
    monkeypatch.setenv("TRENDSTREAM_DEVICE", "")  # empty: as if it were not set
    settings = load_settings(slot=3, bootstrap=None)
    assert settings.partitions == 8
    assert list(settings.calendars()) == ["mine"]
    assert settings.picture_roots == ("/a", "/b")
    assert settings.device == "cpu"
    assert settings.slot == 3
    assert load_settings(partitions=2).partitions == 2


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("PARTITIONS", "many", "integer"),
        ("PARTITIONS", "0", "greater than or equal to 1"),
        ("PLATFORMS", "shop", "is not JSON"),
        ("PLATFORMS", "{}", "at least one platform"),
        ("PLATFORMS", '{"a:b": {}}', "colon"),
        ("PLATFORMS", '{"a": {"timezone": "Mars/Olympus"}}', "no time zone 'Mars/Olympus'"),
        ("PLATFORMS", '{"a": {"country": "UK"}}', "no holidays are known of 'UK'"),
        ("PLATFORMS", '{"a": {"currency": "euro"}}', "platforms.a.currency"),
        ("PLATFORMS", '{"a": {"zone": "UTC"}}', "a.zone"),
        ("BOOTSTRAP", "broker", "'broker' is no host:port"),
        ("BOOTSTRAP", "a:1,b:", "'b:' is no host:port"),
        ("DEVICE", "tpu", "'cpu', 'cuda' or 'auto'"),
        ("TRANSACTION_TIMEOUT_MS", "60000", "less than or equal to 10000"),
        ("PICTURE_ROOTS", "/a", "is not JSON"),
        ("SECRET", "short", "at least 16"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    name: str, text: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TRENDSTREAM_{name}", text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"TRENDSTREAM_{name}")
    assert part.lower() in message.lower()
    assert "\n" not in message


def test_a_secret_is_in_no_message_and_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRENDSTREAM_SECRET", "tooshort-hush")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "hush" not in str(caught.value)
    shown = load_settings(secret="hush-hush-hush-hush", database_url="postgresql://me:hush@host/db").as_table()
    assert "hush" not in str(shown)
    assert "postgresql://me:***@host/db" in str(shown)


def test_the_table_names_every_setting_with_what_it_is() -> None:
    rows = load_settings().as_table()
    assert [name for name, _, _ in rows] == [variable(name) for name in Settings.model_fields]
    assert all(about for _, _, about in rows)


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.partitions = 5


def test_the_development_secret_on_a_broker_elsewhere_is_pointed_out() -> None:
    assert load_settings().secret_bytes() == DEVELOPMENT_SECRET.encode()
    assert cautions(load_settings(bootstrap="127.0.0.1:9092,localhost:9093")) == []
    assert "TRENDSTREAM_SECRET" in cautions(load_settings(bootstrap="kafka.example:9092"))[0]
    assert cautions(load_settings(bootstrap="kafka.example:9092", secret="one of our very own")) == []


def test_a_misspelt_variable_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRENDSTREAM_PARTITION", "8")
    assert cautions(load_settings()) == ["TRENDSTREAM_PARTITION is not a setting; did you mean TRENDSTREAM_PARTITIONS?"]
