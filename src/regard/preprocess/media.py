"""Where images and sound come from: a path, bytes, an open file, a `data:` URL, or a web address on a host that was
named. Whatever it is, its size is known to be within a limit before it is held in memory."""

from __future__ import annotations

import base64
import binascii
import contextlib
import http.client
import io
import ipaddress
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

MAX_REDIRECTS = 5
TIMEOUT = 20.0
"""Seconds that fetching one web address may take, all in all."""

_BLOCK = 2**16


def is_source(value: object) -> bool:
    """Whether this is a place to read bytes from, rather than pixels or samples."""
    return isinstance(value, (str, os.PathLike, bytes, bytearray, memoryview)) or hasattr(value, "read")


@contextlib.contextmanager
def opened(
    source: Source, *, limit: int, allow_hosts: Collection[str] = (), timeout: float = TIMEOUT
) -> Iterator[tuple[BinaryIO, str]]:
    """Open a source of at most `limit` bytes; gives (binary file, its name for errors).

    http(s) addresses are read only from hosts in `allow_hosts`, within `timeout` seconds in all. Raises ValueError,
    naming the source, for one that is empty, too large or not allowed; OSError where a path cannot be opened.
    """
    if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
        yield io.BytesIO(_some(fetch(source, limit=limit, allow_hosts=allow_hosts, timeout=timeout), source)), source
    elif isinstance(source, str) and source[:5].lower() == "data:":
        yield io.BytesIO(_some(_data_url(source, limit), "the data: URL")), "the data: URL"
    elif isinstance(source, (bytes, bytearray, memoryview)):
        size = source.nbytes if isinstance(source, memoryview) else len(source)
        _check_size(size, limit, f"bytes ({size:,})")
        yield io.BytesIO(_some(bytes(source), "bytes (0)")), f"bytes ({size:,})"
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        # Opening a pipe would wait for a writer for ever, so look before.
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise ValueError(f"{path} is not a regular file")
        _check_size(state.st_size, limit, str(path))
        with open(path, "rb") as file:
            yield file, str(path)
    elif hasattr(source, "read"):
        yield _from_file(source, limit)
    else:
        raise ValueError(
            f"a {type(source).__name__} is nothing to read from; allowed: a path, bytes, an open file, a URL"
        )


def _some(data: bytes, name: str) -> bytes:
    if not data:
        raise ValueError(f"{name} is empty: 0 bytes")
    return data


def _check_size(size: int, limit: int, name: str) -> None:
    if size == 0:
        raise ValueError(f"{name} is empty: 0 bytes")
    if size > limit:
        raise ValueError(f"{name} has {size:,} bytes; at most {limit:,} are read")


def _from_file(file: Any, limit: int) -> tuple[BinaryIO, str]:
    name = str(getattr(file, "name", None) or f"a {type(file).__name__}")
    if isinstance(file, io.TextIOBase):
        raise ValueError(f"{name} is open as text; open it with mode 'rb'")
    if hasattr(file, "seekable") and file.seekable() and file.tell() == 0:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        _check_size(size, limit, name)
        return file, name
    data = file.read(limit + 1)  # from where it stands, as a decoder would seek to the file's true beginning
    if not isinstance(data, bytes):
        raise ValueError(f"{name} gives {type(data).__name__} when read; allowed: a file that gives bytes")
    _check_size(len(data), limit, name)
    return io.BytesIO(data), name


def _data_url(url: str, limit: int) -> bytes:
    """The bytes in a data: URL (RFC 2397)."""
    header, comma, body = url.partition(",")
    if not comma:
        raise ValueError("the data: URL has no comma, after which its data should follow")
    if len(body) > 4 * limit:  # no encoding needs more characters a byte
        raise ValueError(f"the data: URL has {len(body):,} characters; at most {limit:,} bytes are read")
    data = unquote_to_bytes(body)
    if header.lower().endswith(";base64"):
        try:
            data = base64.b64decode(data.translate(None, b" \t\r\n"), validate=True)
        except binascii.Error as error:
            raise ValueError(f"the data: URL is not valid base64: {error}") from None
    if len(data) > limit:
        raise ValueError(f"the data: URL has {len(data):,} bytes; at most {limit:,} are read")
    return data


# Web addresses


def fetch(url: str, *, limit: int, allow_hosts: Collection[str], timeout: float = TIMEOUT) -> bytes:
    """The body at an http(s) address: at most `limit` bytes, within `timeout` seconds, from a host in `allow_hosts`.

    Every redirect must lead to an allowed host too. An address inside a private network or this machine is reached
    only where the caller named it as such ("localhost", "127.0.0.1"), never by redirect. ValueError says why not.
    """
    if isinstance(allow_hosts, str):
        raise ValueError(f"allow_hosts is {allow_hosts!r}; allowed: a list of host names")
    allowed = {host.lower().rstrip(".") for host in allow_hosts}
    deadline = time.monotonic() + timeout
    first = url
    for hop in range(MAX_REDIRECTS + 1):
        parts = urlsplit(url)
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError(f"{first} leads to {url[:200]!r}; allowed: http and https addresses")
        if host not in allowed:
            raise ValueError(f"{first} needs the host {host!r}; name it in allow_hosts to read from it")
        address = _address(host, parts.port or (443 if parts.scheme == "https" else 80), redirected=hop > 0)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            answer = _get(parts.scheme, host, address, target, deadline, limit)
        except (OSError, http.client.HTTPException) as error:
            late = " (out of time)" if time.monotonic() >= deadline else ""
            raise ValueError(f"{url} cannot be read{late}: {error or type(error).__name__}") from None
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer.location)
    raise ValueError(f"{first} redirects more than {MAX_REDIRECTS} times")


def _address(host: str, port: int, *, redirected: bool) -> tuple[str, int]:
    """The address of a host, looked up once, so that what was checked is what is called."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"the host {host!r} cannot be found: {error}") from None
    address = str(found[0][4][0])
    number = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(number, "ipv4_mapped", None)
    on_purpose = not redirected and (host == "localhost" or _is_number(host))
    if not (mapped or number).is_global and not on_purpose:
        raise ValueError(f"the host {host!r} is {address}, inside a private network or this machine; refused")
    return address, port


def _is_number(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


class _Moved:
    def __init__(self, location: str) -> None:
        self.location = location


def _get(scheme: str, host: str, address: tuple[str, int], target: str, deadline: float, limit: int) -> bytes | _Moved:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no time left")
    wires = [socket.create_connection(address, timeout=left)]
    # A server that sends a byte now and then would outlive any timeout of a single read; the timer ends it.
    timer = threading.Timer(left, _shut, [wires])
    timer.daemon = True
    timer.start()
    try:
        if scheme == "https":
            context = ssl.create_default_context()
            wires.append(context.wrap_socket(wires[0], server_hostname=host, do_handshake_on_connect=False))
            wires[-1].do_handshake()  # type: ignore[attr-defined]
        with wires[-1] as wire:
            connection = http.client.HTTPConnection(host, address[1], timeout=left)
            connection.sock = wire
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "regard"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return _Moved(response.headers.get("Location", ""))
            if response.status != 200:
                raise http.client.HTTPException(f"the server answered {response.status} {response.reason}")
            if int(response.headers.get("Content-Length") or 0) > limit:
                raise http.client.HTTPException(f"it has more than the {limit:,} bytes that are read")
            return _body(response, limit, deadline)
    except ValueError as error:  # a malformed number in the headers
        raise http.client.HTTPException(str(error)) from None
    finally:
        timer.cancel()
        for wire in wires:
            wire.close()


def _body(response: http.client.HTTPResponse, limit: int, deadline: float) -> bytes:
    expected = response.headers.get("Content-Length")
    data = bytearray()
    while block := response.read(_BLOCK):
        data += block
        if len(data) > limit:
            raise http.client.HTTPException(f"it has more than the {limit:,} bytes that are read")
    if time.monotonic() >= deadline:
        raise TimeoutError("the server is too slow")
    if expected is not None and len(data) < int(expected):
        raise http.client.HTTPException(f"it ends after {len(data):,} of {expected} bytes")
    return bytes(data)


def _shut(wires: list[socket.socket]) -> None:
    with contextlib.suppress(OSError):
        wires[-1].shutdown(socket.SHUT_RDWR)
