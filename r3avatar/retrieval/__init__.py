"""Retrieve: recorded times whose poses are most like a query's, part by part, and the blending of what they give."""

from r3avatar.retrieval.blending import blend, part_weights
from r3avatar.retrieval.live import LiveGreedy, LiveMixture, LiveRetrieval
from r3avatar.retrieval.mixture import MixtureRetriever
from r3avatar.retrieval.retrieved import Mixture, RetrievalError, Retrieved
from r3avatar.retrieval.retriever import FrozenTime, NearestFrame, Retriever
from r3avatar.retrieval.viterbi_retriever import ViterbiRetriever

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
