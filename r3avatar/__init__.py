"""Record, retrieve, reconstruct: animatable 3D Gaussian avatars from multi-view video."""

import os

# torch's OpenMP threads spin while they wait for each other; beside another busy process (data loaders, a sweep's
# other jobs) that made a training step on two cores eight times slower. Read when torch is imported; yours stays.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def __getattr__(name: str):
    # `import r3avatar` stays light: torch and the rest come with the first use.
    if name == "Avatar":
        from r3avatar.loaded_avatar import LoadedAvatar

        return LoadedAvatar
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Avatar"]
