"""Fetches media from web addresses: of allowed hosts, never from this machine or a private network.

The name of a host is resolved once, every address is checked, and the connection is made to an address that was
checked; so a name that changes its address in between gains nothing. Each redirect is checked in the same way.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from vidtune.errors import UserError
from vidtune.serving.problems import ApiProblem, storing

MOST_REDIRECTS = 5
_PORTS = {"http": 80, "https": 443}
_PIECE = 2**16
_HOSTS = re.compile(r"(\*\.)?[\w-]+(\.[\w-]+)*(:\d{1,5})?|[\da-f:.]*:[\da-f:.]*", re.IGNORECASE)
"""What is allowed: a host, those below it, with a port; or an IPv6 address."""
_EMBEDDED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("::/96"))
"""IPv6 networks whose addresses end with an IPv4 address, to which a gateway may lead."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where it holds an IPv4 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if inner is None and any(ip in network for network in _EMBEDDED):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def check_host(given: str) -> None:
    """Raise UserError unless a text names hosts as `Fetcher` takes them."""
    if not _HOSTS.fullmatch(given):
        raise UserError(f"--allow-host {given!r}: is no host; write example.org, *.example.org or example.org:8080")


@dataclass(frozen=True)
class Fetcher:
    """Fetches files from the hosts that are allowed.

    Args:
        hosts: allowed hosts: ``example.org``, ``example.org:8080``, or ``*.example.org`` for the hosts below it.
        most_bytes: largest size of a file.
        seconds: seconds that one file may take in all.
        allowed: whether an IP address may be connected to.
    """

    hosts: Sequence[str]
    most_bytes: int
    seconds: float
    allowed: Callable[[str], bool] = is_public

    def fetch(self, url: str, into: Path, where: str) -> None:
        """Write what an address holds into a file. May be called by several threads.

        Args:
            where: place in the request, for messages.

        Raises:
            ApiProblem: a host or address that is not allowed, no such file, one that is too large or too slow, or a
                full disk.
        """
        deadline = time.monotonic() + self.seconds
        try:
            for _ in range(1 + MOST_REDIRECTS):
                further = self._fetch_once(self._checked(url, where), into, where, deadline)
                if further is None:
                    return
                url = urljoin(url, further)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, TimeoutError) or time.monotonic() >= deadline:
                raise _refused(where, f"was not fetched within {self.seconds:g} s") from None
            raise _refused(where, f"cannot be fetched ({type(error).__name__})") from None
        raise _refused(where, f"redirects more than {MOST_REDIRECTS} times")

    def _checked(self, url: str, where: str) -> SplitResult:
        address = urlsplit(url)
        host, port = (address.hostname or "").lower(), address.port or _PORTS.get(address.scheme)
        if address.scheme not in _PORTS or not host or port is None or address.username or address.password:
            raise _refused(where, "is no http:// or https:// address of a host")
        named = f"{host}:{port}" if port != _PORTS[address.scheme] else host
        if not any(named == one.lower() or (one[:2] == "*." and named.endswith(one[1:].lower())) for one in self.hosts):
            raise _refused(where, f"is on host {named!r}, from which nothing is fetched; see --allow-host")
        return address

    def _fetch_once(self, address: SplitResult, into: Path, where: str, deadline: float) -> str | None:
        """Fetch without following; returns the address of a redirect."""
        connection = self._connection(address, where, deadline)
        end = threading.Timer(_left(deadline), connection.sock.shutdown, [socket.SHUT_RDWR])
        end.start()
        try:
            target = (address.path or "/") + (f"?{address.query}" if address.query else "")
            connection.request("GET", target, headers={"Accept-Encoding": "identity", "User-Agent": "vidtune"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308):
                return response.getheader("Location") or ""
            if response.status != 200:
                raise _refused(where, f"cannot be fetched (status {response.status})")
            with storing(where):
                file = into.open("wb", buffering=0)  # what a full disk does not take is not tried again
            with file:
                self._copy(response, file, where)
            _left(deadline)
        finally:
            end.cancel()
            connection.close()
        return None

    def _connection(self, address: SplitResult, where: str, deadline: float) -> http.client.HTTPConnection:
        """A connection to an address of the host that was checked."""
        host = address.hostname or ""
        port = address.port or _PORTS[address.scheme]
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        if not found or not all(map(self.allowed, found)):
            raise _refused(where, "leads to a private address, to which nothing is sent")
        connection = http.client.HTTPConnection(host, port, timeout=_left(deadline))
        connection.sock = socket.create_connection((found[0], port), _left(deadline))
        if address.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(connection.sock, server_hostname=host)
        return connection

    def _copy(self, response: http.client.HTTPResponse, file: FileIO, where: str) -> None:
        stated = response.getheader("Content-Length")
        size = int(stated or 0)
        while size <= self.most_bytes:
            piece = response.read1(_PIECE)
            if not piece and stated is not None and file.tell() < int(stated):
                raise http.client.IncompleteRead(b"")
            if not piece:
                return
            with storing(where):
                left = memoryview(piece)
                while left:
                    left = left[file.write(left) :]
            size = max(size, file.tell())
        raise _refused(where, f"holds more than {self.most_bytes:,} bytes")


def _left(deadline: float) -> float:
    """Seconds that are left. Raises TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _refused(where: str, reason: str) -> ApiProblem:
    return ApiProblem(400, f"{where}: its address {reason}", code="media_not_fetched", param=where)
