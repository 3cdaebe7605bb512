"""A TCP proxy on loopback that cuts: what goes through it can be broken off, and refused for a while."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType

LOOPBACK = "127.0.0.1"


class _Half(asyncio.Protocol):
    """One end of a connection: what it hears, the other end says."""

    def __init__(self, proxy: Proxy, target: int) -> None:
        self._proxy = proxy
        self._target = target  # 0: the end that looks at the broker
        self._transport: asyncio.Transport | None = None
        self._other: _Half | None = None
        self._early = bytearray()  # heard before the other end was there
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._proxy.open.add(transport)
        if self._target:
            if self._proxy.refusing:
                transport.abort()
            else:
                self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        half = _Half(self._proxy, 0)
        half._other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: half, LOOPBACK, self._target)
        except OSError:  # the broker is down
            self.abort()
            return
        self._other = half
        half.say(bytes(self._early))
        self._early.clear()
        if self._transport is None or self._transport.is_closing():
            half.abort()

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early += data
        else:
            self._other.say(data)

    def say(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._proxy.open.discard(self._transport)
        if self._other is not None:
            self._other.abort()


class Proxy:
    """Listens on ports, and connects each with another one, in a thread of its own."""

    def __init__(self, ports: dict[int, int]) -> None:
        self.open: set[asyncio.Transport] = set()
        self.refusing = False
        self._ports = ports  # where it listens, and where that leads
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._servers: list[asyncio.Server] = []

    def cut(self) -> None:
        """Break every connection off, and refuse new ones until `mend`."""
        self._call(self._cut())

    def mend(self) -> None:
        self.refusing = False

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        for port, target in self._ports.items():
            server = await self._loop.create_server(lambda to=target: _Half(self, to), LOOPBACK, port)  # type: ignore[misc]
            self._servers.append(server)

    async def _cut(self) -> None:
        self.refusing = True
        for transport in list(self.open):
            transport.abort()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        await self._cut()
        await asyncio.sleep(0.05)  # lets every end hear that it is lost
