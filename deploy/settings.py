"""Every setting, in one frozen class, read from the environment at the composition root alone.

A variable is `TRENDSTREAM_` and the field's name in capitals; lists and tables are JSON. Everything else of trendstream
gets what it needs by argument.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from deploy.local_kafka import FOLDER, JARS, LOOPBACK, PORT
from streams.calendars import Platform
from streams.errors import ConfigurationError

PREFIX = "TRENDSTREAM_"
DEVELOPMENT_SECRET = "trendstream-development-secret-not-for-real-buyers"
_BESIDE = {"TRENDSTREAM_DEBUG", "TRENDSTREAM_SHARED_DATA"}  # read before, or outside of, the settings
_LOCAL = {"localhost", LOOPBACK, "[::1]"}

Milliseconds = Annotated[int, Field(ge=1, le=86_400_000)]


class PlatformSetting(BaseModel):
    """A platform's calendar and money, and the country whose holidays its buyers have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timezone: str = "UTC"
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "EUR"
    country: str = ""

    @field_validator("country")
    @classmethod
    def _with_holidays(cls, value: str) -> str:
        if value:
            import holidays

            if value not in holidays.list_supported_countries(include_aliases=False):
                raise ValueError(
                    f"no holidays are known of {value!r}; use an ISO 3166 code such as GB, or leave it empty"
                )
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone {value!r}; use an IANA name such as Europe/London") from None
        return value


PLATFORMS = {
    "shop": PlatformSetting(),
    "complete-journey": PlatformSetting(timezone="America/New_York", currency="USD", country="US"),
    "olist": PlatformSetting(timezone="America/Sao_Paulo", currency="BRL", country="BR"),
    "uci": PlatformSetting(timezone="Europe/London", currency="GBP", country="GB"),
}


class Settings(BaseSettings):
    """All settings and their defaults. Use `load_settings`, which says in one line what is wrong."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    bootstrap: str = Field("", description="host:port of Kafka's brokers, with commas; empty: the local broker")
    partitions: int = Field(4, ge=1, le=1024, description="of every topic keyed by product")
    platforms: dict[str, PlatformSetting] = Field(
        default_factory=lambda: dict(PLATFORMS), description="JSON: name to timezone, currency and country"
    )
    secret: SecretStr = Field(
        SecretStr(DEVELOPMENT_SECRET), min_length=16, description="key of pseudonyms and of sealed originals"
    )
    database_url: str = Field("sqlite:///build/trendstream.db", description="SQLAlchemy URL of the read model")
    model_dir: Path = Field(Path("build/models"), description="trained networks and starting heads")
    replay_dir: Path = Field(Path("build/replays"), description="plans of replays, and what they write")
    text_model: str = Field("", description="Hugging Face name or folder; empty: the packaged one")
    image_model: str = Field("", description="timm name or folder; empty: the packaged one")
    device: Literal["cpu", "cuda", "auto"] = Field("cpu", description="where networks run")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the encoders")
    picture_roots: tuple[str, ...] = Field((), description="JSON list: where a picture's uri may point")

    slot: int = Field(0, ge=0, le=9999, description="static number of this worker among those of its stage")
    commit_interval_ms: Milliseconds = Field(100, description="between two transactions")
    transaction_timeout_ms: int = Field(10_000, ge=1_000, le=10_000, description="until the broker aborts one")
    control_interval_ms: Milliseconds = Field(100, description="between two control rows of an ingest worker")
    idle_ms: Milliseconds = Field(5_000, description="silence after which a source holds event time back no more")
    live_interval_ms: Milliseconds = Field(100, description="between two live windows of a product, at least")
    live_rows: int = Field(256, ge=1, description="live windows a partition and interval at most")
    head_wait_ms: int = Field(30_000, ge=0, description="how long a close window waits for its head")
    memory_limit_mib: int = Field(
        0, ge=0, description="of one worker; it ends before it takes more; 0: three quarters of the machine's"
    )
    snapshot_interval_s: int = Field(30, ge=1, description="between two snapshots of a task")

    metrics_port: int = Field(
        0, ge=0, le=65_000, description="first of the ports for Prometheus: + 10 a slot, + 1 a stage; 0: no metrics"
    )
    metrics_host: str = Field(LOOPBACK, description="where metrics are served; 0.0.0.0 in a container")

    kafka_jars: Path = Field(JARS, description="jars of the local broker")
    kafka_folder: Path = Field(FOLDER, description="settings and data of the local broker")
    kafka_port: int = Field(PORT, ge=0, le=65535, description="of the local broker; 0: a free one")

    @field_validator("bootstrap")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(",") if value else ():
            if not re.fullmatch(r"[^\s:,/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", address):
                raise ValueError(f"{address!r} is no host:port")
        return value

    @field_validator("platforms")
    @classmethod
    def _named(cls, value: dict[str, PlatformSetting]) -> dict[str, PlatformSetting]:
        wrong = [name for name in value if not name or ":" in name]
        if wrong or not value:
            raise ValueError(f"needs at least one platform, and no name that is empty or holds a colon: {wrong}")
        return value

    def calendars(self) -> dict[str, Platform]:
        """The platforms as the stages take them, by name."""
        return {name: Platform(name, p.timezone, p.currency, p.country) for name, p in self.platforms.items()}

    def secret_bytes(self) -> bytes:
        return self.secret.get_secret_value().encode()

    def is_local(self) -> bool:
        """Whether every broker named is on this machine."""
        return all(address.rpartition(":")[0] in _LOCAL for address in self.bootstrap.split(",") if address)

    def as_table(self) -> list[tuple[str, str, str]]:
        """(variable, value, what it is), for printing: secrets and passwords are masked."""
        rows = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            text = json.dumps({k: v.model_dump() for k, v in value.items()}) if name == "platforms" else str(value)
            if name == "database_url":
                text = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", text)
            if name == "picture_roots":
                text = json.dumps(value)
            rows.append((variable(name), text, field.description or ""))
        return rows


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def load_settings(**given: Any) -> Settings:
    """The settings of the environment; `given` (a command's own options) wins where it is not None.

    Raises ConfigurationError with one line that names the variable, what is wrong, and what is allowed.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(e) for e in error.errors(include_input=False))) from None
    except SettingsError as error:
        found = re.search(r'field "(\w+)"', str(error))
        name = variable(found.group(1)) if found else "a setting"
        raise ConfigurationError(f"{name} is not JSON; write it as {_EXAMPLES.get(name, 'JSON')}") from None


_EXAMPLES = {
    "TRENDSTREAM_PLATFORMS": '{"shop": {"timezone": "Europe/Paris", "currency": "EUR"}}',
    "TRENDSTREAM_PICTURE_ROOTS": '["/data/pictures"]',
}


def cautions(settings: Settings) -> list[str]:
    """What is allowed and probably not meant, one line each: for a worker to print when it starts."""
    lines = []
    if settings.secret.get_secret_value() == DEVELOPMENT_SECRET and not settings.is_local():
        lines.append(
            f"TRENDSTREAM_SECRET is the development default and the broker is {settings.bootstrap}: "
            "anybody can undo the pseudonyms; set a secret of your own"
        )
    known = {variable(name) for name in Settings.model_fields} | _BESIDE
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            lines.append(f"{name} is not a setting{f'; did you mean {near[0]}?' if near else ''}")
    return lines


def wants_traceback() -> bool:
    """TRENDSTREAM_DEBUG: read before the settings, whose own errors it is about."""
    return os.environ.get("TRENDSTREAM_DEBUG", "") not in ("", "0")


def _explain(error: Any) -> str:
    path = [str(part) for part in error["loc"]]
    name = ".".join([variable(path[0]), *path[1:]]) if path else "settings"
    if error["type"] == "extra_forbidden" and len(path) == 1:
        return f"{path[0]} is not a setting"
    message = error["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}"
