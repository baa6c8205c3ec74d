"""`r3avatar train -m`: many runs, each a process of its own, on one machine or a cluster. Guide: docs/sweeps.md."""
