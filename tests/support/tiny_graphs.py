"""A graph of few users and items, and LightGCN over it in dense matrices and loops."""

import torch
from torch import Tensor, nn

from repel.data.samples import give_info
from repel.interactions.item_texts import ItemTexts
from repel.interactions.pairs import InteractionInfo
from repel.text.learned_tokens import learned_tokens

USERS, ITEMS = 6, 8  # the last user and the last item have no pair
NODES = USERS + ITEMS


def pairs() -> Tensor:
    cells = torch.randperm((USERS - 1) * (ITEMS - 1), generator=torch.Generator().manual_seed(0))[:18]
    return torch.stack([cells // (ITEMS - 1), cells % (ITEMS - 1)], 1).int()


TEXTS = ["red bird", "", "bird", "blue sea", "a red sea", "sea", "the blue sea", "bird"]


def info() -> InteractionInfo:
    texts = ItemTexts(TEXTS, learned_tokens)
    return InteractionInfo(18, users=USERS, items=ITEMS, pairs=pairs(), item_texts=texts)


def told(encoder: nn.Module) -> nn.Module:
    """The encoder with the data's info, in float64."""
    give_info(encoder.double(), info())
    return encoder


def dense(edges: list[tuple[int, int]]) -> Tensor:
    """The normalized adjacency of these pairs, cell by cell."""
    degrees = [0] * NODES
    for user, item in edges:
        degrees[user] += 1
        degrees[USERS + item] += 1
    matrix = torch.zeros(NODES, NODES, dtype=torch.float64)
    for user, item in edges:
        node = USERS + item
        matrix[user, node] = matrix[node, user] = 1 / (degrees[user] * degrees[node]) ** 0.5
    return matrix


def layers(weight: Tensor, matrix: Tensor, number: int, noise=None) -> list[Tensor]:
    """E_0 .. E_number; noise: (E, layer) -> what is added."""
    found = [weight]
    for layer in range(1, number + 1):
        found.append(matrix @ found[-1])
        if noise is not None:
            found[-1] = found[-1] + noise(found[-1].detach(), layer)
    return found


def nodes(*graphs: int) -> Tensor:
    """(n, 2): all nodes in each of the graphs, the first of each twice."""
    numbers = torch.tensor([0, *range(NODES)])
    return torch.cat([torch.stack([numbers, torch.full_like(numbers, graph)], 1) for graph in graphs])
