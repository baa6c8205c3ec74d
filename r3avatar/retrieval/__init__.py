"""Retrieve: recorded times whose poses are most like a query's, part by part, and the blending of what they give."""

import importlib
from typing import TYPE_CHECKING

from r3avatar.retrieval.blending import blend, part_weights
from r3avatar.retrieval.retrieved import Mixture, RetrievalError, Retrieved

if TYPE_CHECKING:
    from r3avatar.retrieval.live import LiveGreedy, LiveMixture, LiveRetrieval
    from r3avatar.retrieval.mixture import MixtureRetriever
    from r3avatar.retrieval.retriever import FrozenTime, NearestFrame, Retriever
    from r3avatar.retrieval.viterbi_retriever import ViterbiRetriever

_SEARCHES = {
    "LiveGreedy": "live",
    "LiveMixture": "live",
    "LiveRetrieval": "live",
    "MixtureRetriever": "mixture",
    "FrozenTime": "retriever",
    "NearestFrame": "retriever",
    "Retriever": "retriever",
    "ViterbiRetriever": "viterbi_retriever",
}


def __getattr__(name: str):
    # numba is loaded with the searches, not with the blending, which is all that an avatar in training needs.
    if name in _SEARCHES:
        return getattr(importlib.import_module(f"r3avatar.retrieval.{_SEARCHES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "FrozenTime",
    "LiveGreedy",
    "LiveMixture",
    "LiveRetrieval",
    "Mixture",
    "MixtureRetriever",
    "NearestFrame",
    "RetrievalError",
    "Retrieved",
    "Retriever",
    "ViterbiRetriever",
    "blend",
    "part_weights",
]
