"""A SLURM of two nodes with a core each on this machine, for a trial: nobody else can reach it, nothing of it is left.

Needs root on Linux, Debian's `slurm-wlm` and `munge`, `ip`, `unshare` and `setpriv`. All runs in namespaces of its own,
of network and processes, whose end takes everything along; files are in one folder.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["missing", "start", "within"]

TOOLS = ("slurmctld", "slurmd", "munged", "srun", "ip", "unshare", "setpriv")
NODES = {"n1": "10.77.1.1", "n2": "10.77.1.2"}  # on the loopback; its own addresses alone do not count as a network
CONFIG = """
ClusterName=repel
SlurmctldHost=n1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
MinJobAge=600
NodeName=n[1-2] NodeHostname=n1 NodeAddr=10.77.1.[1-2] Port=[17001-17002] CPUs=1 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=10
"""  # cred_expire: a requeued job waits as long; nothing binds tasks to cores


def missing() -> str | None:
    """What this machine lacks, in words."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    found = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(found)} (Debian: apt install slurm-wlm munge)" if found else None


def within(command: list[str], seconds: float) -> int:
    """Run a command in namespaces of its own, for so long at most. Returns its exit status."""
    enter = ["setpriv", "--pdeathsig", "KILL"]  # also where this process is killed
    enter += ["unshare", "--net", "--pid", "--mount-proc", "--uts", "--fork", "--kill-child"]
    with subprocess.Popen([*enter, *command]) as process:
        try:
            return process.wait(seconds)
        finally:  # at a signal, too
            process.kill()


def start(folder: Path) -> None:
    """Start the daemons, with files in this folder; to be called within(). Sets SLURM_CONF for commands."""
    for name in ("state", "munge", *NODES):
        (folder / name).mkdir(mode=0o700)
    hosts = "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in NODES.items())
    (folder / "hosts").write_text(hosts, encoding="utf-8")
    (folder / "resolv.conf").write_text("", encoding="utf-8")
    for name in ("hosts", "resolv.conf"):
        _do("mount", "--bind", str(folder / name), f"/etc/{name}")
    _do("hostname", "n1")
    _do("ip", "link", "set", "lo", "up")
    for address in NODES.values():
        _do("ip", "address", "add", f"{address}/32", "dev", "lo")
    munge = folder / "munge"
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    places = [f"--{name}-file={munge / name}" for name in ("key", "pid", "log", "seed")]
    _do("munged", "--force", f"--socket={munge / 'socket'}", *places)
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder), encoding="utf-8")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    _do("slurmctld")
    for name in NODES:
        _do("slurmd", "-N", name)
    until = time.monotonic() + 60
    while _nodes() != ["idle", "2"]:
        if time.monotonic() > until:
            raise AssertionError((folder / "slurmctld.log").read_text(encoding="utf-8"))
        time.sleep(0.5)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # no pipe: daemons would keep it open


def _nodes() -> list[str]:
    words = ["sinfo", "--noheader", "--format=%T %D"]
    return subprocess.run(words, check=True, capture_output=True, encoding="utf-8").stdout.split()
