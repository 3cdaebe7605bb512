"""Several workers, each in a process of its own. Imports no stage: it only starts, watches and ends them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import structlog

from deploy.errors import DeployError
from deploy.lifecycle import Stopper

WORKERS = ("ingest", "features", "windows", "inference", "labels", "learner", "signals")
ENCODERS = ("text", "image")
_LOG = structlog.get_logger()


def run_all(stop: Stopper) -> int:
    """Every worker; the first that ends takes the others with it. The worst exit code."""
    return _supervise([_command(w) for w in WORKERS if w != "features"] + _encoders(), stop)


def run_features(stop: Stopper) -> int:
    """Both encoders."""
    return _supervise(_encoders(), stop)


def _encoders() -> list[list[str]]:
    return [_command("features", "--encoder", encoder) for encoder in ENCODERS]


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "deploy.cli", "worker", *arguments]


def _supervise(commands: Sequence[list[str]], stop: Stopper, patience_s: float = 30.0) -> int:
    """Run child processes until asked to stop or one of them ends; the worst exit code."""
    children = [subprocess.Popen(command) for command in commands]
    try:
        while not stop.wait(0.2):
            ended = [c for c in children if c.poll() is not None]
            if ended:
                _LOG.error("a worker ended", command=ended[0].args[3:], code=ended[0].returncode)  # type: ignore[index]
                break
    finally:
        early = [c.returncode for c in children if c.poll() is not None]
        for child in children:
            if child.poll() is None:
                child.terminate()
        codes = [_wait(c, patience_s) for c in children]
    if early:
        return max((abs(code) for code in early), default=0) or 1
    return max(abs(code) for code in codes)


def _wait(child: subprocess.Popen[bytes], patience_s: float) -> int:
    try:
        return child.wait(patience_s)
    except subprocess.TimeoutExpired:
        child.kill()
        raise DeployError(
            f"worker {child.args!r} did not end within {patience_s:g} s of SIGTERM and was killed"
        ) from None
