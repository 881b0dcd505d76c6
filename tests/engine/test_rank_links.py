"""Ranks learn that another one is lost; here over the loopback, on two machines by `make two-machines`."""

import json
import os
import socket
import threading

import pytest

from repel.engine import rank_links
from repel.engine.outcomes import CRASHED, MISTAKE, RankFailed
from repel.engine.rank_links import RankLinks, explain_lost_connection

SOON = 10.0  # seconds that nothing here takes


def _join_watching() -> None:
    for thread in threading.enumerate():
        if thread.name == "rank links":
            thread.join(SOON)
            assert not thread.is_alive()


@pytest.fixture
def connected(tmp_path, monkeypatch):
    """A function: the first rank and so many others, connected, each watching; processes that end are in `ended`."""
    monkeypatch.setattr(rank_links, "GRACE", 0.0)
    monkeypatch.setattr(rank_links, "GOODBYE", 0.0)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    ended, all_links = [], []
    done = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: (ended.append(status), done.set()))

    def connect(others: int) -> list[RankLinks]:
        first, *rest = ranks = [RankLinks(rank, tmp_path) for rank in range(others + 1)]
        all_links.extend(ranks)
        place = first.listen(everywhere=False)
        for links in rest:
            assert links.connect("127.0.0.1", place)
        while not first.all_connected(others):
            pass
        for links in ranks:
            links.use_outward_interface()
            links.watch()
        return ranks

    connect.ended, connect.done = ended, done
    yield connect
    for links in all_links:
        links.close(0)
    _join_watching()
    monkeypatch.setattr(rank_links, "_links", None)


def test_a_rank_that_ends_without_a_word_ends_the_others_with_a_line(connected, capsys):
    first, second, third = connected(2)
    third.links[0].shutdown(socket.SHUT_WR)  # as the kernel does where a process is killed
    assert first.lost.wait(SOON)
    assert second.lost.wait(SOON)
    assert connected.done.wait(SOON)
    for links in (first, second):
        assert links.reason.startswith("rank 2 at 127.0.0.1 is lost (it ended without a word)")
        assert links.reason.endswith("there is no checkpoint yet")
        assert links.status == CRASHED
    assert "error: rank " in capsys.readouterr().err


def test_a_rank_that_fails_says_so(connected):
    first, second = connected(1)
    with pytest.raises(RankFailed), second:
        raise RankFailed(MISTAKE, "the data is not there")
    assert first.lost.wait(SOON)
    assert first.reason.startswith("rank 1 has ended, and printed why")
    assert connected.done.wait(SOON)
    assert connected.ended == [MISTAKE]


def test_a_rank_that_is_done_ends_nobody(connected):
    first, second = connected(1)
    with second:
        pass
    first.close(0)
    _join_watching()
    assert not first.lost.is_set()
    assert not second.lost.is_set()
    assert not connected.ended


def test_a_rank_that_ends_by_itself_is_left_to_it(connected, monkeypatch):
    monkeypatch.setattr(rank_links, "GRACE", SOON)
    first, second = connected(1)
    second.links[0].shutdown(socket.SHUT_WR)
    second.closed.set()  # it ends, too
    assert first.lost.wait(SOON)
    first.close(CRASHED)
    _join_watching()
    assert not connected.ended


def test_the_cause_stands_in_the_place_of_what_torch_complains_of(connected, tmp_path, monkeypatch):
    monkeypatch.setattr(rank_links, "GRACE", SOON)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    monkeypatch.chdir(tmp_path.parent)
    first, second = connected(1)
    monkeypatch.setattr(rank_links, "_links", first)  # each process has one
    second.links[0].shutdown(socket.SHUT_WR)
    explain_lost_connection(RuntimeError("shapes differ"))  # a failure of its own
    with pytest.raises(RankFailed, match=f"rank 1 at 127.0.0.1 is lost .* with resume={tmp_path.name} goes on"):
        explain_lost_connection(RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"))
    second.closed.set()
    first.close(CRASHED)


def test_what_torch_complains_of_stays_where_no_rank_is_lost(connected, monkeypatch):
    monkeypatch.setattr(rank_links, "NOTICE", 0.0)
    explain_lost_connection(RuntimeError("gloo: a rank of another program"))
    connected(1)
    explain_lost_connection(RuntimeError("gloo: Connection closed by peer"))


def test_strangers_are_no_ranks(tmp_path):
    first = RankLinks(0, tmp_path)
    place = first.listen(everywhere=False)
    with first.server, socket.create_connection(("127.0.0.1", place["port"])) as stranger:
        stranger.sendall(json.dumps({"rank": 1, "token": "guessed"}).encode() + b"\n")
        assert not first.all_connected(1)
        with socket.create_connection(("127.0.0.1", place["port"])) as other:
            other.sendall(b"5\n")
            assert not first.all_connected(1)
        assert not first.links
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    assert not RankLinks(1, tmp_path).connect("127.0.0.1", {"port": closed, "token": ""})


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system has other names for it")
def test_a_machine_that_is_silent_is_lost_within_half_a_minute(connected):
    first, _ = connected(1)
    (link,) = first.links.values()
    idle, interval, times = (
        link.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
    )
    assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert idle + interval * times <= 30


@pytest.mark.skipif(not os.path.exists("/sys/class/net/lo"), reason="the loopback has another name")
def test_gloo_uses_the_interface_over_which_the_ranks_meet(connected, monkeypatch):
    """Not that of the machine's name, which Debian has stand for 127.0.1.1 alone."""
    connected(1)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    connected(1)
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    assert rank_links._interface("203.0.113.7") is None
