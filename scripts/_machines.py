"""Two machines on one: network namespaces joined by a virtual cable, each with its name, address and temporary folder.

Needs root on Linux, with `ip` (iproute2), `nsenter` and `unshare` (util-linux); `nft` for a firewall. Names resolve as
Debian sets them up: a machine's own name stands for 127.0.1.1 there, and for its address on the other one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Machine", "Refused", "two_machines"]

ROOT = Path(__file__).parents[1]
NAMES, ADDRESSES = ("machine1", "machine2"), ("10.77.0.1", "10.77.0.2")
TOOLS = ("ip", "nsenter", "unshare")


class Refused(Exception):
    """This system does not let us make namespaces; the message says what was refused."""


class Machine:
    """One of the two. `folder` is its temporary one."""

    def __init__(self, number: int, folder: Path):
        self.number, self.name, self.folder = number, NAMES[number], folder / NAMES[number]
        self.namespace, self.cable = f"repel{os.getpid()}m{number + 1}", f"cable{number + 1}"
        self.folder.mkdir()
        own, other = f"127.0.1.1 {NAMES[number]}\n", f"{ADDRESSES[1 - number]} {NAMES[1 - number]}\n"
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + own + other, encoding="utf-8")
        (self.folder / "resolv.conf").write_text("", encoding="utf-8")  # else each look-up waits for a server

    def connect(self) -> None:
        _do("ip", "-n", self.namespace, "address", "add", f"{ADDRESSES[self.number]}/24", "dev", self.cable)
        for device in (self.cable, "lo"):
            self.link(device, "up")

    def link(self, device: str, state: str) -> None:
        _do("ip", "-n", self.namespace, "link", "set", device, state)

    def start(self, cwd: Path, *command: str, **env: str) -> "Command":
        """Start a command here, in the folder cwd that both machines share."""
        inside = (
            f"mount --bind {self.folder}/hosts /etc/hosts && mount --bind {self.folder}/resolv.conf /etc/resolv.conf"
        )
        inside += f" && hostname {NAMES[self.number]} && exec " + '"$@"'
        enter = [
            "nsenter",
            f"--net=/run/netns/{self.namespace}",
            "unshare",
            "--mount",
            "--uts",
            "sh",
            "-c",
            inside,
            "sh",
        ]
        usual = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment = {**usual, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1", **env}
        return Command([*enter, *command], cwd, environment, self.folder / "output")

    def kill(self) -> None:
        """As a power failure does it, but for the network, which still says that the connections have ended."""
        for _ in range(2):  # the second time what the first had not seen begin
            for pid in _do("ip", "netns", "pids", self.namespace).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def nft(self, rule: str) -> None:
        """Add a rule for what comes in, such as `tcp dport 1-1024 drop`."""
        for words in (
            "add table ip t",
            "add chain ip t c { type filter hook input priority 0 ; }",
            f"add rule ip t c {rule}",
        ):
            _do("ip", "netns", "exec", self.namespace, "nft", words)

    def open_firewall(self) -> None:
        _do("ip", "netns", "exec", self.namespace, "nft", "delete table ip t")


class Command:
    """A command that runs; what it prints goes into a file."""

    def __init__(self, words: list[str], cwd: Path, environment: dict[str, str], output: Path):
        self.output = output
        with output.open("w", encoding="utf-8") as file:
            self.process = subprocess.Popen(words, cwd=cwd, env=environment, stdout=file, stderr=file)

    def wait_for(self, words: str, seconds: float = 120) -> None:
        """Until it has printed these words."""
        until = time.monotonic() + seconds
        while words not in self.printed():
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"never printed {words!r}:\n{self.printed()}")
            time.sleep(0.05)

    def end(self, seconds: float = 180) -> int:
        """The exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end within {seconds:.0f} s:\n{self.printed()}") from None

    def printed(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def errors(self) -> list[str]:
        """The lines of repel's own, among what torchrun prints."""
        return [line for line in self.printed().splitlines() if line.startswith("error: ")]


@contextlib.contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Make them, and take them apart again, whatever runs there.

    Raises:
        Refused: this system does not allow it.
    """
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise Refused(f"needs {', '.join(missing)}")
    if sys.platform != "linux" or os.geteuid() != 0:
        raise Refused("needs root on Linux")
    first, second = Machine(0, folder), Machine(1, folder)
    made: list[Machine] = []
    try:
        try:
            for machine in (first, second):
                _do("ip", "netns", "add", machine.namespace)
                made.append(machine)
            _do("ip", "link", "add", first.cable, "netns", first.namespace, "type", "veth",
                "peer", "name", second.cable, "netns", second.namespace)  # fmt: skip
            for machine in (first, second):
                machine.connect()
        except subprocess.CalledProcessError as refused:
            raise Refused(f"{' '.join(refused.cmd)}: {refused.stderr.strip()}") from None
        yield first, second
    finally:
        for machine in made:
            machine.kill()
            _do("ip", "netns", "delete", machine.namespace)


def _do(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
