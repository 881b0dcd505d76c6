"""Train on two machines, and break things: a node is killed, the cable is cut, addresses and ports do not answer.

    sudo make two-machines

The machines are network namespaces on this one, see _machines.py; nothing of them is left. About five minutes on two
cores. Prints a line a trial, and ends with status 1 where one fails; where namespaces are refused it says so.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import csv
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _machines import ADDRESSES, ROOT, Command, Machine, Refused, two_machines

from repel.base.signals import ends_on_signal

TINY = ["experiment=debug", "encoder.width=4", "head.out_features=8", "data.batch_size=16", "callbacks.pairs=null",
        "callbacks.knn=null", "evaluators=[]", "evaluation.map=null", "evaluation.bank=64", "data.val_fraction=0.01",
        "trainer.max_epochs=12"]  # fmt: skip
TORCHRUN = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
BY_NUMBER = ["--master-addr=machine1", "--master-port=29500"]  # and --node-rank
BY_NAME = ["--rdzv-backend=c10d", "--rdzv-endpoint=machine1:29500"]
NODES = ["trainer.devices=1", "trainer.num_nodes=2"]
TRAIN = str(ROOT / "train.py")
MINUTE = 60.0
MIDDLE = "epoch 3/12"  # printed when a trial breaks something


class Trials:
    """What is tried, in a folder that both machines share.

    Args:
        machines: the two.
        folder: empty.
    """

    def __init__(self, machines: tuple[Machine, Machine], folder: Path):
        self.machines, self.folder = machines, folder

    def torchrun(self, name: str, *more: str, nodes: list[str] = NODES, meet: list[str] = BY_NUMBER) -> list[Command]:
        train = [TRAIN, *TINY, *nodes, f"name={name}", *more]
        numbers = [[f"--node-rank={machine.number}"] if meet == BY_NUMBER else [] for machine in self.machines]
        return [
            machine.start(self.folder, sys.executable, *TORCHRUN, *meet, *number, *train)
            for machine, number in zip(self.machines, numbers, strict=True)
        ]

    def rank(self, number: int, address: str, **env: str) -> Command:
        """Without torchrun, by the variables that any launcher sets."""
        place = {
            "RANK": str(number),
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "2",
            "MASTER_ADDR": address,
            "MASTER_PORT": "29501",
        }
        words = [sys.executable, TRAIN, *TINY, *NODES, "name=alone"]
        return self.machines[number].start(self.folder, *words, **place, REPEL_START_SECONDS="8", **env)

    def run(self, name: str) -> Path:
        (found,) = self.folder.glob(f"runs/train/*_{name}")
        return found

    # --------------------------------------------------------------------------------------------------------- trials
    def one_machine(self) -> str:
        words = [sys.executable, TRAIN, *TINY, "trainer.devices=2", "name=reference"]
        _expect(self.machines[0].start(self.folder, *words), 0)
        return "trained"

    def trains(self) -> str:
        for command in self.torchrun("two"):
            _expect(command, 0)
        for command in self.torchrun("by_name", meet=BY_NAME):
            _expect(command, 0)
        self.compared("by_name")
        return self.compared("two")

    def killed(self) -> str:
        return self.broken("killed", self.machines[1].kill)

    def cut(self) -> str:
        return self.broken("cut", lambda: self.machines[1].link(self.machines[1].cable, "down"))

    def broken(self, name: str, break_it: Callable[[], None]) -> str:
        """Break something in the middle of training: the other machine ends within a minute, and a resume goes on."""
        commands = self.torchrun(name)
        commands[0].wait_for(MIDDLE)
        break_it()
        began, said = time.monotonic(), []
        for machine, command in zip(self.machines, commands, strict=True):
            status, seconds = command.end(), time.monotonic() - began
            lines = command.errors()
            said.append(f"{machine.name}: status {status} after {seconds:.0f} s, {' | '.join(lines) or 'no line'}")
            ended = status == 1 and seconds < MINUTE and len(lines) == 1
            assert ended or status == -signal.SIGKILL, f"{said}\n{command.printed()}"
        self.machines[1].link(self.machines[1].cable, "up")
        for command in self.torchrun(name, f"resume={self.run(name)}"):
            _expect(command, 0)
        return "\n".join([*said, f"resumed: {self.compared(name)}"])

    def wrong_world(self) -> str:
        return self.refused(self.torchrun("world", nodes=["trainer.devices=1", "trainer.num_nodes=1"]), 2)

    def nobody(self) -> str:
        return self.refused([self.rank(1, "10.77.0.9")], 1)

    def alone(self) -> str:
        return self.refused([self.rank(0, ADDRESSES[0])], 1)

    def firewall(self) -> str:
        self.machines[0].nft("ip saddr 10.77.0.2 tcp dport != 29500 drop")
        try:
            return self.refused(self.torchrun("firewall"), 1)
        finally:
            self.machines[0].open_firewall()

    def closed_port(self) -> str:
        self.machines[0].nft("ip saddr 10.77.0.2 drop")
        try:
            return self.refused([self.rank(0, ADDRESSES[0]), self.rank(1, ADDRESSES[0])], 1)
        finally:
            self.machines[0].open_firewall()

    def refused(self, commands: list[Command], status: int) -> str:
        """Each ends within a minute, with one line or, where another one has said it, none."""
        began = time.monotonic()
        statuses = [command.end() for command in commands]
        seconds = time.monotonic() - began
        lines = [line for command in commands for line in command.errors()]
        ended = seconds < MINUTE and 1 <= len(lines) <= len(commands) and statuses[0] in (status, 1)
        assert ended, "\n".join(command.printed() for command in commands)
        return f"statuses {statuses} after {seconds:.0f} s: {' | '.join(lines)}"

    def compared(self, name: str) -> str:
        """The run's weights and metrics beside those of one machine."""
        reference, run = self.run("reference"), self.run(name)
        one, other = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (reference, run))
        assert one["global_step"] == other["global_step"]
        for key, tensor in one["state_dict"].items():
            assert torch.equal(tensor, other["state_dict"][key]), f"{name}: {key} differs"
        differing = [one for one, other in zip(_metrics(reference), _metrics(run), strict=False) if one != other]
        assert not differing, f"{name}: metrics.csv differs: {differing[0]}"
        rows = len(_metrics(run))
        assert rows == len(_metrics(reference)), rows
        return f"{len(one['state_dict'])} tensors of weights and {rows} rows of metrics.csv equal in all bits"


TRIALS = {
    "one machine, two ranks": Trials.one_machine,
    "two machines": Trials.trains,
    "the second machine is killed": Trials.killed,
    "the cable is cut": Trials.cut,
    "trainer.num_nodes=1, where two were started": Trials.wrong_world,
    "an address that nobody has": Trials.nobody,
    "the second machine never comes": Trials.alone,
    "a firewall lets nothing but the rendezvous pass": Trials.firewall,
    "a firewall lets nothing pass": Trials.closed_port,
}


def _expect(command: Command, status: int) -> None:
    ended = command.end()
    assert ended == status, f"ended with status {ended}:\n{command.printed()}"


def _metrics(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without speeds: their row may come after the checkpoint from which a resume goes on."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [{name: text for name, text in row.items() if text} for row in csv.DictReader(file)]
    rows = [{name: text for name, text in row.items() if not name.startswith("speed/")} for row in rows]
    return [row for row in rows if row.keys() - {"epoch", "step"}]


@ends_on_signal
def main() -> int:
    chosen = [name for name in TRIALS if not sys.argv[1:] or any(word in name for word in sys.argv[1:])]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="repel_machines_") as place:
        folder = Path(place)
        (folder / "shared").mkdir()
        try:
            with two_machines(folder) as machines:
                trials = Trials(machines, folder / "shared")
                for name in chosen:
                    try:
                        said = TRIALS[name](trials)
                    except AssertionError as error:
                        said, failed = f"FAILED: {error}", failed + 1
                    print(f"{name}\n  " + said.replace("\n", "\n  "), flush=True)
        except Refused as refused:
            print(f"skipped: two machines cannot be made here: {refused}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
