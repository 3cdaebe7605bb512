"""Environments of the peers, each of its own under build/bench/envs: their dependencies exclude each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench.suite import BenchError, say

# Each reads JSON with the fastest that its own way of working can use.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "quix": ("quixstreams>=3.20,<4", "orjson>=3.10"),
    "bytewax": ("bytewax[kafka]>=0.21,<0.22", "msgspec>=0.19"),
    "pathway": ("pathway>=0.20,<1",),
    "faust": ("faust-streaming[rocksdict]>=0.15,<0.16", "cramjam>=2.8", "orjson>=3.10"),
}


def python_of(engine: str, folder: Path) -> Path:
    """The interpreter of the peer's environment, made or renewed where it is not what the table says."""
    home = folder / "envs" / engine
    python, marker = home / "bin" / "python", home / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS[engine]) + "\n"
    if marker.exists() and marker.read_text() == wanted:
        return python
    say(f"  making the environment of {engine} in {home} (once)")
    _uv("venv", "--quiet", "--clear", "--python", sys.executable, str(home))
    _uv("pip", "install", "--quiet", "--python", str(python), *REQUIREMENTS[engine])
    marker.write_text(wanted)
    return python


def _uv(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "uv", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if line.strip()), "it said nothing")
        raise BenchError(f"uv {arguments[0]} for {arguments[-1]} failed (exit code {done.returncode}): {reason}")
