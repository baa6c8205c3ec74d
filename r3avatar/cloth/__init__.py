"""Garments that hang loose: cut to the masks, and moved by simulation wherever the body goes."""
