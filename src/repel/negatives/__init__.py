"""Negatives strategies: how much each negative weighs in a loss, independent of the loss.

The contract is strategy.Strategy: `weights(rows)` gives log-weights w, `extra(rows)` may add negatives of its own,
`correct(log_z, rows)` may correct each anchor's log Z. A loss uses

    log Z_i = correct( logsumexp over j of (l_ij + w_ij) )

or e^w as the weights of its pairs. `hard.py` has the strategies that drop some negatives, `soft.py` those that weigh
all, `mixed.py` the one that makes some.
"""
