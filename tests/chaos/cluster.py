"""Three brokers of one KRaft cluster on loopback, each broker and controller; workers reach them through a proxy."""

from __future__ import annotations

import random
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.local_kafka import LOOPBACK, LocalKafka, cluster_id
from tests.chaos.proxy import Proxy

NODES = 3
_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    # A broker that was killed is known to be gone after three seconds, not nine.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
}


class Cluster:
    """`bootstrap` is the brokers themselves, `proxied` the same ones through the proxy.

    A broker tells each client the addresses of the listener that it came by, so that who starts at the proxy stays
    behind it.
    """

    def __init__(self, folder: Path, jars: Path, memory_mb: int = 320) -> None:
        ports = _free_ports(4 * NODES)
        inside, behind, controllers, proxied = (ports[i * NODES : (i + 1) * NODES] for i in range(4))
        voters = ",".join(f"{n + 1}@{LOOPBACK}:{port}" for n, port in enumerate(controllers))
        cluster = cluster_id()
        self.bootstrap = ",".join(f"{LOOPBACK}:{port}" for port in inside)
        self.proxied = ",".join(f"{LOOPBACK}:{port}" for port in proxied)
        self.proxy = Proxy(dict(zip(proxied, behind, strict=True)))
        self.brokers = []
        for n in range(NODES):
            listeners = {"PLAINTEXT": inside[n], "WORKERS": behind[n], "CONTROLLER": controllers[n]}
            advertised = {"PLAINTEXT": inside[n], "WORKERS": proxied[n]}
            overrides = {
                **_REPLICATED,
                "node.id": str(n + 1),
                "controller.quorum.voters": voters,
                "listeners": _addresses(listeners),
                "advertised.listeners": _addresses(advertised),
                "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            }
            self.brokers.append(
                LocalKafka(
                    folder / f"broker-{n + 1}",
                    inside[n],
                    jars=jars,
                    memory_mb=memory_mb,
                    overrides=overrides,
                    cluster=cluster,
                    start_timeout_s=120,
                )
            )
        self._folder = folder

    def __enter__(self) -> Cluster:
        self.proxy.__enter__()
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()  # nothing that they hold is wanted any more
        self.proxy.__exit__(kind, error, traceback)
        for broker in self.brokers:
            shutil.rmtree(broker.folder / "data", ignore_errors=True)

    def start(self) -> None:
        """All of them at once: one alone finds no quorum."""
        self._each(LocalKafka.start)

    def kill(self) -> None:
        self._each(LocalKafka.kill)

    def _each(self, what: Callable[[LocalKafka], object]) -> None:
        with ThreadPoolExecutor(NODES) as threads:
            for done in [threads.submit(what, broker) for broker in self.brokers]:
                done.result()

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def members(self, group: str) -> dict[str, str]:
        """Static names by member id, "" for a member without; nobody where nobody can say now.

        A client of its own each time: one that has seen a group's coordinator go may wait for it for good (librdkafka's
        issue 5511).
        """
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        try:
            members = admin.describe_consumer_groups([group], request_timeout=5)[group].result().members
        except KafkaException:
            return {}
        return {m.member_id: m.group_instance_id or "" for m in members}

    def in_sync(self) -> bool:
        """Whether every partition has a leader and all of its replicas."""
        try:
            known = self._admin.list_topics(timeout=5)
        except KafkaException:
            return False
        return len(known.brokers) == NODES and all(
            p.leader >= 0 and len(p.isrs) == NODES for topic in known.topics.values() for p in topic.partitions.values()
        )

    def wait_in_sync(self, tend: Callable[[], None], timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not self.in_sync():
            assert time.monotonic() < deadline, f"the brokers were not in sync within {timeout_s:g} s"
            tend()
            time.sleep(0.25)


def _addresses(listeners: dict[str, int]) -> str:
    return ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in listeners.items())


def _free_ports(count: int) -> list[int]:
    """Ports that stay ours while their broker is down: below those that the system gives to connections."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 4_000):
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)):
                found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports between 20000 and 32000")
