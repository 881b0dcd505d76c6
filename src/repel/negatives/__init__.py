"""Negatives strategies: how much each negative weighs in a loss, independent of the loss.

The contract is `Strategy`: `keep(block)` says which negatives are kept, `weights(block)` gives log-weights w,
`extra(block)` may add synthetic negatives, `correct(log_z, block)` may correct each anchor's log Z. A loss uses

    log Z_i = correct( logsumexp over j of (l_ij + w_ij) )

or e^w as the weights of its pairs. `block` is a LogitBlock: some anchors against all candidates. Strategies need no
template: `NTXent(temperature=0.5, negatives=HCL(beta=1.0, tau_plus=0.1))`.
"""

from repel.negatives.guide import Guide
from repel.negatives.hard import Annulus, FalseNegatives, Hardest, SemiHard, TopK
from repel.negatives.known import Known
from repel.negatives.mixed import Mixed
from repel.negatives.own import OwnNegatives
from repel.negatives.popularity import Popularity
from repel.negatives.sampled import Random
from repel.negatives.soft import HCL, Chain, Debiased, Tilt
from repel.negatives.strategy import LogitBlock, Strategy
from repel.negatives.uniform import Uniform

__all__ = [
    "HCL",
    "Annulus",
    "Chain",
    "Debiased",
    "FalseNegatives",
    "Guide",
    "Hardest",
    "Known",
    "LogitBlock",
    "Mixed",
    "OwnNegatives",
    "Popularity",
    "Random",
    "SemiHard",
    "Strategy",
    "Tilt",
    "TopK",
    "Uniform",
]
