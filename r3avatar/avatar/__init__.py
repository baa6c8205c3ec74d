"""The avatar: canonical Gaussians, temporal codebook, decoder, skinning, pose refinement."""

from r3avatar.avatar.avatar import Avatar
from r3avatar.avatar.build import build_avatar
from r3avatar.avatar.canonical import CanonicalGaussians
from r3avatar.avatar.codebook import TemporalCodebook
from r3avatar.avatar.colour_residual import ColourResidual
from r3avatar.avatar.decoder import AttributeDecoder, Attributes
from r3avatar.avatar.playback import Playback
from r3avatar.avatar.pose_refinement import PoseRefinement
from r3avatar.avatar.shading import Shading
from r3avatar.avatar.skinning import Skinning, WeightOffsets

__all__ = [
    "AttributeDecoder",
    "Attributes",
    "Avatar",
    "CanonicalGaussians",
    "ColourResidual",
    "Playback",
    "PoseRefinement",
    "Shading",
    "Skinning",
    "TemporalCodebook",
    "WeightOffsets",
    "build_avatar",
]
