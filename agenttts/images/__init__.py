"""Container images: build, digest, record, CUDA version."""
