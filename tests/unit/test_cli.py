"""The command line: help that loads nothing, one clear line for what is wrong, and the right exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from deploy import cli
from deploy.cli import COMMANDS, run
from deploy.errors import LocalKafkaError
from streams.errors import BrokerError, ConfigurationError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a local broker."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to standard error: it must be one line."""
    text = capsys.readouterr().err
    assert text.startswith("trendstream: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text


def test_help_lists_every_command_and_loads_neither_torch_nor_a_stage() -> None:
    code = (
        "import sys; from deploy.cli import run; code = run(['--help']); "
        "heavy = [m for m in ('torch', 'numpy', 'pyarrow', 'confluent_kafka', 'pydantic') if m in sys.modules]; "
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, about in COMMANDS.items():
        assert any(name in line and about in line for line in done.stdout.splitlines()), name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"trendstream {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["topic"], "Did you mean 'topics'"),
        (["--nonsense"], "No such option: --nonsense"),
        (["topics", "nonsense"], "No such command 'nonsense'"),
        (["topics", "cat"], "Missing argument 'topic'"),
        (["topics", "cat", "trend.window"], "no topic 'trend.window'"),
        (["topics", "cat", "orders", "--limit", "many"], "Input should be a valid integer"),
        (["topics", "cat", "orders", "--limit", "0"], "greater than or equal to 1"),
        (["topics", "create", "--partitions", "0"], "greater than or equal to 1"),
        (["topics", "list", "--bootstrap", "nowhere"], "'nowhere' is no host:port"),
        (["broker", "start", "--port", "70000"], "less than or equal to 65535"),
        (["replay", "plan"], "Missing option '--from'"),
        (["train", "complete-journey", "--until", "2017-08-01", "--network", "perceptron"], "'perceptron'"),
        (["train", "complete-journey", "--until", "2017-08-01", "--task", "guess"], "'guess'"),
        (["train", "complete-journey", "here", "--until", "2017-08-01"], "takes no PATH"),
        (["backtest", "uci", "--until", "2011-08-01"], "uci takes the PATH of its file"),
        (["evaluate", "uci", "f.csv", "--others", "9"], "no number of products but --products"),
        (["evaluate", "files", "here", "--products", "9"], "files takes the PATH of a folder, and no number"),
        (["export", "--to", "int3"], "--to int3: there is no such export; take one of bf16, int8, compiled"),
        (["replay", "plan", "--from", "yesterday"], "--from: 'yesterday' is no instant"),
        (["replay", "plan", "--from", "2h", "--late", "early"], "--late 'early': it is in-place"),
        (["replay", "plan", "--from", "2h", "--code", "same", "--head", "h1"], "and this would change head h1"),
        (["replay", "plan", "--from", "2h", "--products", "p1"], "--products 'p1' names no platform"),
        (["replay", "run", "r1"], "no replay 'r1' in build/replays; there are none"),
        (["replay", "rate", "r1", "101"], "less than or equal to 100"),
    ],
    ids=" ".join,
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: list[str], part: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert part in _complaint(capsys)


@pytest.mark.parametrize("arguments", [[], ["topics"], ["broker"]], ids=["none", "topics", "broker"])
def test_a_command_that_needs_another_one_shows_its_help(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Usage: trendstream" in captured.out + captured.err


def test_a_wrong_setting_is_exit_code_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRENDSTREAM_PARTITIONS", "many")
    assert run(["topics", "list"]) == 2
    assert "TRENDSTREAM_PARTITIONS" in _complaint(capsys)


def test_a_command_on_a_broker_that_is_not_there_says_how_to_start_one(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["topics", "list"]) == 2
    assert "trendstream broker start" in _complaint(capsys)


def test_the_status_of_no_broker_is_exit_code_1_and_stopping_it_is_no_failure(
    elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["broker", "status"]) == 1
    assert "no broker runs" in capsys.readouterr().out
    assert run(["broker", "stop"]) == 0


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (BrokerError("the broker\nwent away"), 1, "the broker went away"),
        (LocalKafkaError("no Java"), 1, "no Java"),
        (ConfigurationError("wrong"), 2, "wrong"),
        (ValueError("odd"), 1, "unexpected ValueError: odd (TRENDSTREAM_DEBUG=1 shows where)"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_of_a_command_is_one_line_and_its_exit_code(
    error: BaseException, code: int, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def demo() -> None:
        raise error

    _replace_demo(monkeypatch, demo)
    assert run(["demo"]) == code
    if part:
        assert part in _complaint(capsys)


def test_a_traceback_is_there_for_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def demo() -> None:
        raise BrokerError("gone")

    _replace_demo(monkeypatch, demo)
    monkeypatch.setenv("TRENDSTREAM_DEBUG", "1")
    with pytest.raises(BrokerError, match="gone"):
        run(["demo"])


def test_a_reader_that_leaves_early_is_no_error() -> None:
    # A pipe that nobody reads, as `trendstream topics list | head -0` makes it.
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "--help"], cwd=ROOT, stdout=out, stderr=subprocess.PIPE, check=False
        )
    assert b"Traceback" not in done.stderr
    assert b"trendstream:" not in done.stderr


def _replace_demo(monkeypatch: pytest.MonkeyPatch, demo: object) -> None:
    module = types.ModuleType("deploy.cli.demo")
    module.__dict__["demo"] = demo
    monkeypatch.setitem(sys.modules, "deploy.cli.demo", module)
    monkeypatch.setattr(cli, "demo", module, raising=False)
