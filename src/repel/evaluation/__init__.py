"""Evaluation of frozen features: plain functions on tensors or arrays, and the evaluators that a report runs.

    from repel.evaluation import knn_top1, linear_probe

protocol.py says how a report measures, so that nothing is chosen on test data. The functions below need neither a run
nor a config.
"""

from repel.evaluation.geometry import (
    alignment,
    dead_dimensions,
    deviation,
    effective_rank,
    tolerance,
    uniformity,
)
from repel.evaluation.item_rankings import ranking_metrics
from repel.evaluation.knn import knn_predict, knn_top1, nearest_neighbors
from repel.evaluation.linear_classifier import LinearClassifier, linear_probe
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score, accuracy
from repel.evaluation.retrieval import retrieval_metrics

__all__ = [
    "Evaluator",
    "Fitted",
    "LinearClassifier",
    "Network",
    "Part",
    "Score",
    "accuracy",
    "alignment",
    "dead_dimensions",
    "deviation",
    "effective_rank",
    "knn_predict",
    "knn_top1",
    "linear_probe",
    "nearest_neighbors",
    "ranking_metrics",
    "retrieval_metrics",
    "tolerance",
    "uniformity",
]
