"""What `r3avatar bench` measures: training, rendering, preparation of frames, retrieval."""
