"""A real Apache Kafka for development and tests, without Docker: jars by Maven, a KRaft node on loopback.

A broker lives in a folder: `server.properties`, `data/`, `broker.log`, and `state.json` while it runs, so that another
process can find and stop it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from types import TracebackType

from deploy.errors import LocalKafkaError

VERSION = "4.1.0"
JAVA = 17  # the oldest that this Kafka runs on
JARS = Path("build/kafka/jars")
FOLDER = Path("build/kafka/broker")
PORT = 9092
LOOPBACK = "127.0.0.1"

# Waits until whoever holds its standard input is gone, however that ended, and then ends the broker of this process id.
_GUARD = """
read _
{ grep -qs kafka.Kafka /proc/$0/cmdline || ps -ww -o args= -p $0 | grep -q kafka.Kafka; } && kill -9 $0
"""

MAX_BYTES = 10 * 1024 * 1024  # above every topic's max.message.bytes, with its batch's header

# What every broker of trendstream needs, wherever it runs: docker-compose.yml carries the same (a test compares them).
ESSENTIAL = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "message.max.bytes": str(MAX_BYTES),
    "replica.fetch.max.bytes": str(MAX_BYTES),
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    # An open transaction of a killed worker hides every later record of its partitions, for as long as it times out
    # plus one sweep.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
}

_SMALL = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "num.partitions": "1",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    "log.retention.hours": "168",
}


@dataclass(frozen=True)
class RunningBroker:
    """A broker's state file."""

    pid: int
    port: int

    @property
    def bootstrap(self) -> str:
        return f"{LOOPBACK}:{self.port}"


class LocalKafka:
    """One broker in `folder`; a new folder is an empty broker, an old one keeps its records.

    `port` 0 takes a free one. `memory_mb` is the heap of the Java process. `overrides` are broker settings that win
    over the ones of this module. `cluster` is the id that the nodes of one cluster share; empty: an id of its own.
    """

    def __init__(
        self,
        folder: Path | str,
        port: int = 0,
        *,
        jars: Path | str = JARS,
        memory_mb: int = 512,
        overrides: dict[str, str] | None = None,
        cluster: str = "",
        long_lived: bool = False,
        start_timeout_s: float = 60.0,
    ) -> None:
        self.folder = Path(folder).resolve()
        self.jars = Path(jars).resolve()
        self._port = port
        self._memory_mb = memory_mb
        self._overrides = overrides or {}
        self._cluster = cluster
        self._long_lived = long_lived
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port` of the running broker. Raises LocalKafkaError when there is none."""
        running = self.running()
        if running is None:
            raise LocalKafkaError(f"no broker runs in {self.folder}; start one with `trendstream broker start`")
        return running.bootstrap

    def running(self) -> RunningBroker | None:
        """The broker that runs in this folder, whichever process started it."""
        try:
            state = RunningBroker(**json.loads(self._state.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return state if self._is_ours(state.pid) else None

    def start(self, stay: bool = False) -> RunningBroker:
        """Start the broker and wait until it answers; the running one, if there is one already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.folder / ".lock"):
            running = self.running()
            if running is not None:
                return running
            java = require_java()
            fetch_jars(self.jars)
            if self._port and not _is_free(self._port):
                raise LocalKafkaError(f"port {self._port} is taken by another program; choose another with --port")
            port, controller = _free_ports(self._port)
            self._write_properties(port, controller)
            self._format(java)
            return self._launch(java, port, stay)

    def stop(self, timeout_s: float = 20.0) -> bool:
        """End the broker of this folder: SIGTERM, then SIGKILL. False when none ran."""
        running = self.running()
        if running is None:
            self._state.unlink(missing_ok=True)
            return False
        for sign, patience in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, sign)
            if self._wait_gone(running.pid, patience):
                self._state.unlink(missing_ok=True)
                self._process = None
                if self._guard is not None:
                    self._guard.kill()
                    self._guard.communicate()
                    self._guard = None
                return True
        raise LocalKafkaError(f"the broker in {self.folder} (process {running.pid}) does not end; see {self._log}")

    def kill(self) -> None:
        """End the broker at once, without a clean shutdown, as a crash would."""
        self.stop(timeout_s=0.0)

    def __enter__(self) -> LocalKafka:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"

    @property
    def _log(self) -> Path:
        return self.folder / "broker.log"

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _write_properties(self, port: int, controller: int) -> None:
        settings = {
            **_SMALL,
            **ESSENTIAL,
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "log.dirs": str(self.folder / "data"),
            **self._overrides,
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in sorted(settings.items())))

    def _format(self, java: str) -> None:
        if (self.folder / "data" / "meta.properties").exists():
            return
        command = [
            *self._java(java, 128),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            self._cluster or cluster_id(),
            "-c",
            str(self._properties),
        ]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise LocalKafkaError(f"{self.folder} could not be formatted: {_reason(done.stdout + done.stderr)}")

    def _launch(self, java: str, port: int, stay: bool) -> RunningBroker:
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches the program, which then stops the broker in order.
            self._process = subprocess.Popen(
                [*self._java(java, self._memory_mb), "kafka.Kafka", str(self._properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        running = RunningBroker(self._process.pid, port)
        if not stay:
            # A session of its own, too: whoever kills this process may kill its group.
            self._guard = subprocess.Popen(
                ["sh", "-c", _GUARD, str(running.pid)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._state.write_text(json.dumps(asdict(running)))
        try:
            self._wait_ready(running)
        except BaseException:
            self.kill()
            raise
        return running

    def _java(self, java: str, memory_mb: int) -> list[str]:
        return [
            java,
            f"-Xmx{memory_mb}m",
            "-XX:+UseSerialGC",
            *([] if self._long_lived else ["-XX:TieredStopAtLevel=1"]),
            "-Djava.awt.headless=true",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-cp",
            str(self.jars / "*"),
        ]

    def _wait_ready(self, running: RunningBroker) -> None:
        # Imported here: `trendstream broker status` and --help need no librdkafka.
        from deploy.topics import answers

        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise LocalKafkaError(f"the broker ended while it started: {self._complaint()}")
            if not _is_free(running.port) and answers(running.bootstrap, timeout_s=2.0):
                return
            time.sleep(0.05)
        raise LocalKafkaError(f"the broker did not answer within {self._start_timeout_s:.0f} s: {self._complaint()}")

    def _complaint(self) -> str:
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        return f"{_reason(text)} (all of it in {self._log})"

    def _is_ours(self, pid: int) -> bool:
        """Whether the process is the broker of this folder: its id may belong to another program by now."""
        command = _command_line(pid)
        return "kafka.Kafka" in command and str(self._properties) in command

    def _wait_gone(self, pid: int, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while True:
            if self._process is not None and self._process.pid == pid:
                gone = self._process.poll() is not None  # a child that has ended waits for its parent to ask
            else:
                gone = not self._is_ours(pid)
            if gone:
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def find_java() -> str | None:
    """Path of a Java on the PATH that can run the broker; None when there is none."""
    java = shutil.which("java")
    return java if java is not None and (_java_version(java) or 0) >= JAVA else None


def require_java() -> str:
    """`find_java`, or a LocalKafkaError that says what is wrong."""
    java = find_java()
    if java is not None:
        return java
    found = shutil.which("java")
    if found is None:
        raise LocalKafkaError(f"no Java on the PATH; the local Kafka needs Java {JAVA} or newer")
    version = _java_version(found)
    what = f"Java {version}" if version else "a Java that does not say its version"
    raise LocalKafkaError(f"{found} is {what}; the local Kafka needs Java {JAVA} or newer")


def obstacle(jars: Path | str = JARS) -> str | None:
    """Why a local Kafka cannot run here, in one line; None when it can."""
    try:
        require_java()
        if not _marker(Path(jars)).exists():
            _require_maven()
    except LocalKafkaError as error:
        return str(error)
    return None


def fetch_jars(jars: Path | str = JARS) -> bool:
    """Copy the broker's jars into the folder by Maven, once. False when they lie there already."""
    target = Path(jars).resolve()
    if _marker(target).exists():
        return False
    require_java()
    maven = _require_maven()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent / f".{target.name}.lock"):
        if _marker(target).exists():
            return False
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".jars-") as scratch:
            _copy_dependencies(maven, Path(scratch))
            shutil.rmtree(target, ignore_errors=True)
            (Path(scratch) / "jars").rename(target)
        _marker(target).write_text(f"kafka {VERSION}\n")
    return True


def _copy_dependencies(maven: str, scratch: Path) -> None:
    pom = scratch / "pom.xml"
    pom.write_text(resources.files("deploy").joinpath("kafka-pom.xml").read_text())
    command = [
        maven,
        "-q",
        "-B",
        "-f",
        str(pom),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={scratch / 'jars'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode or not list((scratch / "jars").glob(f"kafka_2.13-{VERSION}.jar")):
        errors = [line.strip() for line in done.stdout.splitlines() if "ERROR" in line]
        why = errors[0] if errors else _reason(done.stdout + done.stderr)  # Maven's first is the cause
        raise LocalKafkaError(f"Maven could not fetch Kafka's jars (exit code {done.returncode}): {why}")


def _marker(jars: Path) -> Path:
    return jars / f"complete-{VERSION}"


def _require_maven() -> str:
    maven = shutil.which("mvn")
    if maven is None:
        raise LocalKafkaError("no Maven (mvn) on the PATH; it fetches Kafka's jars the first time")
    return maven


def _java_version(java: str) -> int | None:
    done = subprocess.run([java, "-version"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found else None


def _command_line(pid: int) -> str:
    """What a process was started with; "" when it is gone."""
    if Path("/proc/self").exists():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    done = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout


def cluster_id() -> str:
    """22 characters, as Kafka writes a UUID."""
    while True:
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not name.startswith("-"):  # or the command line would take it for an option
            return name


def _free_ports(port: int) -> tuple[int, int]:
    """The broker's port (the given one, or a free one) and a free one for the controller."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind((LOOPBACK, 0))
        first, second = (each.getsockname()[1] for each in sockets)
    return port or first, second


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) != 0


def _reason(text: str) -> str:
    """The line of a program's output that most likely says why it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for word in ("Exception: ", "ERROR", "Error"):
        for line in reversed(lines):
            if word in line:
                return line
    return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with its process, however that ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """`python -m deploy.local_kafka [JARS]`: fetch the jars where they can be, else say what is used instead."""
    jars = Path(sys.argv[1]) if len(sys.argv) > 1 else JARS
    reason = obstacle(jars)
    if reason is not None:
        sys.stderr.write(f"{reason}: the in-process log is used instead of Kafka\n")
        return 0
    try:
        if fetch_jars(jars):
            sys.stderr.write(f"kafka {VERSION} is in {jars}\n")
    except LocalKafkaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
