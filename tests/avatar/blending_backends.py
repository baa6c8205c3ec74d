"""Attributes blended by both backends, for tests to compare."""

from collections.abc import Iterator

from r3avatar.avatar import Attributes, Avatar
from r3avatar.retrieval import Retrieved


def blended_by_both(avatar: Avatar, retrieved: Retrieved) -> Iterator[tuple[Attributes, Attributes]]:
    """What torch and Triton blend, with each way of weighing parts and of mixing rotations."""
    constants, device = avatar.constants(), avatar.gaussians.positions.device
    for published, align in ((False, False), (True, False), (False, True)):
        avatar.blend_weights_published = published
        results = []
        for backend in ("torch", "triton"):
            avatar.skinning.backend = backend
            arguments = (x.to(device) for x in avatar.distinct_times(retrieved))
            results.append(avatar.blend_times(*arguments, constants, align))
        yield results[0], results[1]
