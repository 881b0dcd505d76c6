"""What encoder=lightgcn costs in a step, by pairs, nodes and augmented graphs: docs/benchmarks/propagation.md

    python scripts/benchmark_propagation.py [--rounds 5] [--threads 1]

On made logs, whose items are as popular as Zipf's law says: a forward and a backward pass of the encoder for a batch of
4,096 pairs, CPU seconds, on a GPU synchronized seconds. Settings take turns; the least of all rounds counts. A minute.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from _benchmark import versions, write_page

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal

WIDTH, LAYERS, BATCH = 64, 3, 4096
LARGE = (800_000, 80_000)
SIZES = [(200_000, 20_000), (200_000, 80_000), (800_000, 20_000), LARGE]  # pairs, nodes
AUGMENT = {"none": 6, "layers": 6, "noise": 10, "edges": 18, "nodes": 18}  # and products with A a step, at 3 layers

HEAD = """# The cost of graph convolution

`{command}`: forward and backward pass of encoder=lightgcn with
{width} dimensions and {layers} layers, float32, for a batch of {batch:,} pairs, on made logs. {device},
{versions}. The least of {rounds} rounds, in which all take turns.

A product of the adjacency A with the nodes' vectors reads F numbers for each end of each of E pairs and writes F for
each node. A step makes P of them, forward and backward, and adds up the layers:

    seconds = a P E F + b P (nodes) F

A pair costs more where the nodes' vectors do not fit in the processor's cache. With augment=none or layers, P = 2 L: A
is symmetric, so that the backward pass is another L products. With edges or nodes and G augmented graphs it is
2 L (1 + G), and each graph is normalized anew. With noise the graphs share their first layer and their backward pass:
P = 1 + (L - 1) (1 + G) + L.

"""


def log(pairs: int, nodes: int):
    """A made log with about so many pairs; two fifths of the nodes are users."""
    import torch

    from repel.interactions.pairs import InteractionInfo

    draws, users = np.random.default_rng(0), nodes * 2 // 5
    share = 1 / np.arange(10, nodes - users + 10)
    items = draws.choice(nodes - users, size=pairs * 5 // 4, p=share / share.sum())
    cells = np.unique(draws.integers(users, size=len(items)) * (nodes - users) + items)
    kept = np.sort(draws.permutation(cells)[:pairs])
    found = torch.from_numpy(np.stack([kept // (nodes - users), kept % (nodes - users)], 1)).int()
    return InteractionInfo(len(found), users=users, items=nodes - users, pairs=found)


def step(info, augment: str, device: str) -> Callable[[], None]:
    """One step of the encoder."""
    import torch

    from repel.base.dropout import DrawCounters, counted_parts, give_counters
    from repel.data.samples import give_info
    from repel.interactions.lightgcn import LightGCN

    encoder = LightGCN(WIDTH, LAYERS, augment=augment)
    give_info(encoder, info)
    encoder.to(device)
    chosen = info.pairs[torch.randint(len(info.pairs), (BATCH,))].long()
    nodes = torch.cat([chosen[:, 0], info.users + chosen[:, 1]])
    graphs = range(encoder.graphs + 1)
    x = torch.cat([torch.stack([nodes, torch.full_like(nodes, graph)], 1) for graph in graphs]).to(device)
    steps, parts = iter(range(10**6)), counted_parts(encoder)

    def run() -> None:
        give_counters(parts, DrawCounters(next(steps), BATCH))
        encoder.zero_grad()
        encoder(x).sum().backward()

    return run


def products(info, device: str) -> dict[str, Callable[[], object]]:
    """A x, by this encoder and by torch's sparse matrices."""
    import torch

    from repel.interactions.graph import Graph

    graph = Graph()
    graph.on_data(info)
    graph.to(device)
    adjacency, x = graph.adjacency(), torch.randn(graph.nodes, WIDTH, device=device)
    rows = torch.sparse_csr_tensor(*adjacency, (graph.nodes, graph.nodes))
    cells = rows.to_sparse_coo().coalesce()
    return {
        "embedding_bag": lambda: adjacency.times(x),
        "CSR": lambda: rows @ x,
        "COO": lambda: torch.sparse.mm(cells, x),
    }


def least(functions: dict[object, Callable], rounds: int, device: str) -> dict[object, float]:
    """Seconds of each."""
    import torch

    found: dict[object, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            clock = time.perf_counter if device == "cuda" else time.process_time
            began = clock()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            if number:  # the first warms up
                found[name].append(clock() - began)
    return {name: min(seconds) for name, seconds in found.items()}


@ends_on_signal
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="more seem slower where the machine has other work")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    torch.sparse.check_sparse_tensor_invariants.disable()  # which are known to hold
    device = "cuda" if torch.cuda.is_available() else "cpu"
    logs = {size: log(*size) for size in SIZES}
    by_size = least({size: step(info, "none", device) for size, info in logs.items()}, options.rounds, device)
    by_kind = least({kind: step(logs[LARGE], kind, device) for kind in AUGMENT}, options.rounds, device)
    by_form = least(products(logs[LARGE], device), options.rounds, device)
    where = f"CPU seconds of {options.threads} thread(s) of {usable_cores()} cores"
    text = HEAD.format(
        command=f"python scripts/benchmark_propagation.py --rounds {options.rounds} --threads {options.threads}",
        rounds=options.rounds, width=WIDTH, layers=LAYERS, batch=BATCH, versions=versions("torch"),
        device=torch.cuda.get_device_name() if device == "cuda" else where,
    )  # fmt: skip
    text += tables(by_size, by_kind, by_form)
    print(text, flush=True)
    write_page("propagation.md", text)


def tables(by_size: dict, by_kind: dict, by_form: dict) -> str:
    work = np.array([[6 * pairs * WIDTH, 6 * nodes * WIDTH] for pairs, nodes in by_size], dtype=float)
    measured = np.array(list(by_size.values()))
    (a, b), *_ = np.linalg.lstsq(work / measured[:, None], np.ones(len(work)), rcond=None)  # relative errors
    lines = [f"Fitted: a = {a * 1e9:.2f} ns, b = {b * 1e9:.2f} ns.", "", "| pairs | nodes | seconds | formula |"]
    lines += ["|---|---|---|---|"]
    for (pairs, nodes), seconds, row in zip(by_size, measured, work, strict=True):
        lines.append(f"| {pairs:,} | {nodes:,} | {seconds:.3f} | {row @ [a, b]:.3f} |")
    lines += ["", f"By augmentation, with {LARGE[0]:,} pairs and {LARGE[1]:,} nodes:", ""]
    lines += ["| augment | P | seconds | times none |", "|---|---|---|---|"]
    for kind, seconds in by_kind.items():
        lines.append(f"| {kind} | {AUGMENT[kind]} | {seconds:.3f} | {seconds / by_kind['none']:.1f} |")
    lines += ["", "One product A x of the same log, by what torch has for it:", "", "| form | seconds |", "|---|---|"]
    lines += [f"| {form} | {seconds:.3f} |" for form, seconds in by_form.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
