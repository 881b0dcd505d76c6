"""The cost of a training step in time, memory and traffic, as docs/scaling.md has it. No torch: plain arithmetic.

By the legend: B samples per rank, W ranks, N = W * B, V views, D embedding dimensions, K queue. Seconds and bytes.
"""

from dataclasses import dataclass

FLOAT = 4  # bytes: embeddings and the loss are float32 in every precision
FORWARD_AND_BACKWARD = 3  # times a forward pass
ADAM_STATE, ADAM_TRAFFIC = 16, 28  # bytes a parameter: weight, gradient, two moments; read 4, written 3
PEAK_MATRICES = 8  # of repel.losses.chunking: (anchors, candidates) that a block of the loss holds
GATHERED_COPIES = 5  # (V, N, D): z, unit vectors, the candidates' gradient, that of z, and its copy for the all-reduce
RING_COPIES = 6  # (V, B, D): the same two tiles, with their gradients, received and sent
RING_WORK = 4 / 3  # of the loss: backward makes each tile's logits again


@dataclass(frozen=True)
class Machine:
    """A GPU in a cluster. Rates are peaks, in FLOP/s and bytes/s one way; what is reached of them is `reached`.

    flops: of bfloat16 matrix products; flops32: of float32 ones. memory: bytes. hbm: of that memory.
    near, far: to a GPU of the same machine; of a GPU's own network card. per_node: GPUs in a machine.
    near_hop, far_hop, base: seconds that a hop and a collective operation take whatever they carry.
    """

    name: str
    flops: float
    flops32: float
    memory: float
    hbm: float
    near: float
    far: float
    per_node: int = 8
    reached: float = 0.4
    near_hop: float = 3.4e-6
    far_hop: float = 9.6e-6
    base: float = 8.4e-6


@dataclass(frozen=True)
class Model:
    """An encoder: parameters; of a view the FLOPs of a forward pass, and in float32 the bytes that are kept for
    backward, and those that forward and backward read and write.
    """

    name: str
    parameters: int
    flops: float
    kept: float
    moved: float


@dataclass(frozen=True)
class Batch:
    """What a step is made of. traffic: bytes that the loss reads and writes for each of its logits."""

    B: int
    W: int = 1
    V: int = 2
    D: int = 128
    K: int = 0
    micro: int | None = None
    traffic: float = 0.0

    @property
    def N(self) -> int:
        return self.W * self.B

    @property
    def logits(self) -> int:
        """That a rank compares: its anchors against all candidates."""
        return self.V * self.B * (self.V * self.N + self.K)


A100 = Machine("A100", 312e12, 19.5e12, 80e9, 2.039e12, 300e9, 25e9)
H100 = Machine("H100", 989e12, 67e12, 80e9, 3.35e12, 450e9, 50e9)


def passes(batch: Batch) -> int:
    """Forward passes that a step is worth: a backward pass is two, and micro-batches take one more."""
    return FORWARD_AND_BACKWARD + (batch.micro is not None)


def encoder_seconds(batch: Batch, model: Model, machine: Machine, size: float = 0.5) -> float:
    """By arithmetic or by memory, whichever takes longer.

    Args:
        size: of a number, a share of float32's; 0.5 under bf16-mixed.
    """
    compute, moved = passes(batch) * model.flops / machine.flops, size * model.moved / machine.hbm
    moved *= passes(batch) / FORWARD_AND_BACKWARD
    return batch.V * batch.B * max(compute, moved) / machine.reached


def loss_flops(batch: Batch) -> float:
    """A product for the logits, one for the anchors' gradient, one for the candidates'."""
    return 3 * 2 * batch.D * batch.logits


def loss_seconds(batch: Batch, machine: Machine) -> float:
    return (loss_flops(batch) / machine.flops32 + batch.traffic * batch.logits / machine.hbm) / machine.reached


def hops_seconds(hops: int, W: int, machine: Machine) -> float:
    """Latency of so many times W - 1 hops around all ranks, those between machines counted as such."""
    nodes = max(1, W // machine.per_node)
    return hops * ((W - nodes) * machine.near_hop + (nodes - 1) * machine.far_hop)


def bus(W: int, machine: Machine) -> float:
    """Bytes/s of a collective operation: over machines all their cards carry a share."""
    return machine.near if machine.per_node >= W else min(machine.near, machine.per_node * machine.far)


def embedding_bytes(batch: Batch) -> float:
    """Of a rank's own embeddings, (V, B, D)."""
    return FLOAT * batch.V * batch.B * batch.D


def gather_bytes(batch: Batch) -> float:
    """That a rank receives: all-gather of z, all-reduce of its gradient, which is two such rounds."""
    return 3 * (batch.W - 1) * embedding_bytes(batch)


def gather_seconds(batch: Batch, machine: Machine) -> float:
    if batch.W == 1:
        return 0.0
    return 2 * machine.base + hops_seconds(3, batch.W, machine) + gather_bytes(batch) / bus(batch.W, machine)


def ring_bytes(batch: Batch) -> float:
    """Keys go around forward; keys and their gradients go around backward."""
    return gather_bytes(batch)


def ring_seconds(batch: Batch, machine: Machine) -> float:
    """Loss and traffic: a tile is compared while the next one arrives, over one link, the slowest of the ring."""
    work, link = RING_WORK * loss_seconds(batch, machine) / batch.W, machine.near
    if machine.per_node < batch.W:
        link = machine.far
    hop = machine.near_hop if machine.per_node >= batch.W else machine.far_hop
    seconds = 0.0
    for share, parts in ((1 / 4, 1), (3 / 4, 2)):  # forward: a product of four, keys; backward: three, and gradients
        arrives = hop + parts * embedding_bytes(batch) / link
        seconds += share * work + (batch.W - 1) * max(share * work, arrives)
    return seconds


def reduce_seconds(batch: Batch, model: Model, machine: Machine) -> float:
    """DDP's all-reduce of the gradient, by a tree over the machines; without what hides behind the backward pass."""
    if batch.W == 1:
        return 0.0
    nodes = max(1, batch.W // machine.per_node)
    latency = 2 * (min(batch.W, machine.per_node) - 1) * machine.near_hop
    latency += 2 * (nodes.bit_length() - 1) * machine.far_hop
    sent = 2 * (batch.W - 1) / batch.W * FLOAT * model.parameters
    return machine.base + latency + sent / bus(batch.W, machine)


def step_seconds(batch: Batch, model: Model, machine: Machine, ring: bool = False) -> dict[str, float]:
    """Parts of a step, in seconds, and `step`, their sum. Views are made by other kernels and are left out."""
    encoder = encoder_seconds(batch, model, machine)
    behind = 2 / 3 * encoder if batch.micro is None else 0.0  # micro-batches exchange the gradient once, at the end
    parts = {
        "encoder": encoder,
        "loss": ring_seconds(batch, machine) if ring else loss_seconds(batch, machine),
        "exchange": 0.0 if ring else gather_seconds(batch, machine),
        "gradient": max(0.0, reduce_seconds(batch, model, machine) - behind),
        "optimizer": ADAM_TRAFFIC * model.parameters / machine.hbm,
    }
    return parts | {"step": sum(parts.values())}


def memory(batch: Batch, model: Model, kept: float = 1.0, ring: bool = False) -> dict[str, float]:
    """Bytes of a rank.

    Args:
        kept: of the activations' float32 bytes; about 0.5 under bf16-mixed.
    """
    at_once = batch.B if batch.micro is None else min(batch.micro, batch.B)
    state = (ADAM_STATE + (FLOAT if batch.W > 1 else 0)) * model.parameters  # DDP's buckets are a copy of the gradient
    copies = RING_COPIES if ring else GATHERED_COPIES * batch.W
    return {
        "state": state,
        "activations": kept * batch.V * at_once * model.kept,
        "embeddings": copies * embedding_bytes(batch),
        "queue": FLOAT * batch.K * batch.D,
    }


def block_bytes(batch: Batch, rows: int, ring: bool = False) -> float:
    """What the loss holds for so many anchors at a time, which row_chunk says, at its peak."""
    candidates = batch.V * batch.B if ring else batch.V * batch.N + batch.K
    return PEAK_MATRICES * FLOAT * rows * candidates


def largest_gathered(machine: Machine, D: int, V: int = 2, share: float = 0.25) -> int:
    """N whose gathered copies take so much of the memory."""
    return int(share * machine.memory / (GATHERED_COPIES * FLOAT * V * D))
