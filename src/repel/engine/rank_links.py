"""Ranks on several machines notice at once when one of them is lost: a process killed, a machine off, a cable cut.

torch would wait for it for half an hour. Here every rank keeps a connection to the first one, silent while all is well:
the kernels at its ends ask each other every few seconds whether the other one is there (TCP's keepalive), also while
Python computes or the process is stopped. The same connections show which network interface leads to the other ranks.
"""

import contextlib
import fcntl
import ipaddress
import json
import os
import secrets
import selectors
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from repel.base.signals import Stopped
from repel.engine.outcomes import CRASHED, RankFailed, explain

__all__ = ["RankLinks", "explain_lost_connection"]

KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a machine that is silent is lost in 25 seconds
UNANSWERED = 25_000  # milliseconds after which it is, too, where something was sent
GRACE = 10.0  # seconds in which a rank may end by itself, with a better line, once another one is lost
CLOSING = 5.0  # seconds for loggers of services, then
GOODBYE = 45.0  # the same, once another one has said that it ends: this one may have more to close
NOTICE = 2.0  # seconds after which a connection is known to be lost, once torch complains of one
LONGEST = 10_000  # bytes of a message
SIOCGIFADDR = 0x8915  # Linux: the address of an interface

_links: "RankLinks | None" = None  # of this process


class RankLinks:
    """This rank's connections: the first rank's to all others, another one's to the first.

    A context, whose end tells the others how this rank ended. Once one is lost, the others end, too: by themselves,
    where what they exchange fails; else from here, after GRACE.

    Args:
        rank: this one.
        folder: the run's, for the line that says how to go on.
    """

    def __init__(self, rank: int, folder: Path):
        self.rank, self.folder = rank, folder
        self.links: dict[int, socket.socket] = {}  # by the rank at the other end
        self.token = secrets.token_hex(16)
        self.lost, self.closed = threading.Event(), threading.Event()
        self.reason, self.status, self.grace = "", CRASHED, GRACE

    def listen(self, everywhere: bool) -> dict[str, Any]:
        """Called by the first rank, before the others connect. Returns what they need for it.

        Args:
            everywhere: on all interfaces; else for this machine alone.
        """
        both = everywhere and socket.has_dualstack_ipv6()  # IPv6 and IPv4
        self.server = socket.create_server(
            ("" if everywhere else "127.0.0.1", 0), family=socket.AF_INET6 if both else socket.AF_INET, backlog=1024,
            dualstack_ipv6=both,
        )  # fmt: skip
        self.server.setblocking(False)
        return {"port": self.server.getsockname()[1], "token": self.token}

    def all_connected(self, others: int) -> bool:
        """Called by the first rank, again and again: whether so many others have connected. Then each is told."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # nobody, or a stranger
            link, _ = self.server.accept()
            hello = _receive(link, seconds=1.0)
            if hello["token"] == self.token:
                self.links[int(hello["rank"])] = _kept_alive(link)
        return len(self.links) == others

    def connect(self, host: str, place: dict[str, Any]) -> bool:
        """Called by another rank, again and again: whether it could connect to the first one."""
        with contextlib.suppress(OSError):
            link = socket.create_connection((host, place["port"]), timeout=5)
            self.links[0] = _kept_alive(link)
            _send(link, token=place["token"], rank=self.rank)
            return True
        return False

    def use_outward_interface(self) -> None:
        """Let gloo use the interface over which ranks reach each other, once all are connected. The first rank tells.

        gloo itself takes the address that the machine's own name stands for: on Debian 127.0.1.1, which nobody reaches.
        """
        own = [_plain(link.getsockname()) for link in self.links.values()]
        outward = [address for address in own if not ipaddress.ip_address(address).is_loopback]
        if self.rank == 0:
            address = (outward or own)[0]
            for link in self.links.values():
                _send(link, address=address)
        else:  # on the first rank's own machine it may have come by the loopback
            first = _receive(self.links[0], seconds=None)["address"]
            address = (outward or [first])[0]
        if name := _interface(address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)

    def watch(self) -> None:
        """From here on notice ranks that are lost, in a thread."""
        global _links
        _links = self
        self.addresses = {rank: _plain(link.getpeername()) for rank, link in self.links.items()}
        threading.Thread(target=self._watch, daemon=True, name="rank links").start()

    def close(self, status: int) -> None:
        """This rank has ended, or is about to: nobody shall wait for it."""
        self.closed.set()
        for link in self.links.values():
            with contextlib.suppress(OSError):  # that one has ended before
                _send(link, status=status, reason=f"rank {self.rank} has ended, and printed why")
                link.shutdown(socket.SHUT_WR)

    def __enter__(self) -> "RankLinks":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            self.close(explain(error)[0])
        else:  # a signal, or none
            self.close(0 if error is None else getattr(error, "status", Stopped(signal.SIGINT).status))

    def _watch(self) -> None:
        selector = selectors.DefaultSelector()
        for rank, link in self.links.items():
            selector.register(link, selectors.EVENT_READ, rank)
        while selector.get_map() and not self.lost.is_set():
            for key, _ in selector.select():
                selector.unregister(key.fileobj)
                self._note_end(key.data)
        if self.lost.is_set() and not self.closed.wait(self.grace):
            print(f"error: rank {self.rank}: {self.reason}", file=sys.stderr, flush=True)
            if "repel.monitoring.services" in sys.modules:  # which may wait for the network, too
                close = sys.modules["repel.monitoring.services"].close_loggers
                closing = threading.Thread(target=close, args=(self.status,), daemon=True)
                closing.start()
                closing.join(CLOSING)
            os._exit(self.status)

    def _note_end(self, rank: int) -> None:
        """Of the rank at the other end: it says how it ended, or that it lost another one; or it is gone itself."""
        link = self.links[rank]
        grace = GOODBYE
        try:
            ended = _receive(link, seconds=None)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else "it ended without a word"
            grace = GRACE
            lost = f"rank {rank} at {self.addresses[rank]} is lost ({why})"
            ended = {"status": CRASHED, "reason": f"{lost}: its process, its machine or the network is down"}
        if ended["status"] == 0 or self.closed.is_set():
            return
        self.reason, self.status, self.grace = f"{ended['reason']}; {self._hint()}", ended["status"], grace
        self.lost.set()
        for other, other_link in self.links.items():
            if self.rank == 0 and other != rank:
                with contextlib.suppress(OSError):
                    _send(other_link, **ended)

    def _hint(self) -> str:
        if not (self.folder / "checkpoints/last.ckpt").exists():
            return "there is no checkpoint yet"
        folder = self.folder.relative_to(Path.cwd()) if self.folder.is_relative_to(Path.cwd()) else self.folder
        return f"the same command on all machines with resume={folder} goes on from the last checkpoint"


def explain_lost_connection(error: Exception) -> None:
    """Raises RankFailed with the cause where torch complains of a connection, and a rank is lost."""
    import torch.distributed as dist

    of_exchange = isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "Gloo", "NCCL"))
    if of_exchange and _links is not None and _links.lost.wait(NOTICE):
        _links.closed.set()  # from here on this rank ends by itself
        raise RankFailed(_links.status, _links.reason) from error


def _send(link: socket.socket, **message: Any) -> None:
    link.sendall(json.dumps(message).encode() + b"\n")


def _receive(link: socket.socket, seconds: float | None) -> dict[str, Any]:
    """One message, in so many seconds. Raises OSError, or ValueError where the connection has ended."""
    link.settimeout(seconds)
    line = b""
    while not line.endswith(b"\n"):
        byte = link.recv(1)  # one at a time: another message may follow
        if not byte or len(line) > LONGEST:
            raise ValueError("not a message")
        line += byte
    return json.loads(line)


def _plain(place: tuple[Any, ...]) -> str:
    """The address of a socket's end, IPv4's without IPv6's prefix."""
    return str(place[0]).removeprefix("::ffff:")


def _kept_alive(link: socket.socket) -> socket.socket:
    link.settimeout(None)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**KEEPALIVE, "TCP_USER_TIMEOUT": UNANSWERED}.items():
        if hasattr(socket, name):  # not on every system
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return link


def _interface(address: str) -> str | None:
    """The name of the interface that has this IPv4 address; None where the system does not say."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                found = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return None
