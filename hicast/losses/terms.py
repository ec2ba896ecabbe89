"""Loss terms: named scalars with weights, summed last, each name kept for the log."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

LossTerms = dict[str, Tensor]


def weighted_sum(terms: LossTerms, weights: Mapping[str, float]) -> Tensor:
    """Sum of `weights[name] * terms[name]`; a term without a weight counts once.

    Raises KeyError for no terms at all, because a loss of nothing has no gradient.
    """
    if not terms:
        raise KeyError("a loss needs at least one term")
    return sum(weights.get(name, 1.0) * value for name, value in terms.items())
