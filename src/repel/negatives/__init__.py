"""Negatives strategies: how much each negative weighs in a loss, independent of the loss.

The contract. A strategy is a module with

    weights(rows) -> log-weights w, broadcastable to (m, n): 0 keeps a negative, -inf drops it, between is soft
    correct(log_z, rows) -> the rows' log Z, (m,), after a correction per anchor; most strategies return it as it is

and a loss uses `log Z_i = correct(logsumexp over j of (l_ij + w_ij))`.
"""
