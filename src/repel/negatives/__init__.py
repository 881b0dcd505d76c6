"""Negatives strategies: how much each negative weighs in a loss, independent of the loss.

The contract is strategy.Strategy: `weights(rows)` gives log-weights w, `correct(log_z, rows)` may correct each anchor's
log Z, and a loss uses `log Z_i = correct(logsumexp over j of (l_ij + w_ij))`. `hard.py` has those that drop some
negatives, `soft.py` those that weigh all.
"""
