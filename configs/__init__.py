"""The Hydra configuration tree; installed as the package `r3avatar.configs`."""
