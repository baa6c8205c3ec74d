"""Retrieve: recorded times whose poses are most like a query's, part by part, and the blending of what they give."""

from r3avatar.retrieval.blending import blend, part_weights
from r3avatar.retrieval.retrieved import Retrieved
from r3avatar.retrieval.retriever import NearestFrame, Retriever

__all__ = ["NearestFrame", "Retrieved", "Retriever", "blend", "part_weights"]
