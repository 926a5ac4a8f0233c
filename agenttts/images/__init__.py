"""Container images: build, digest, record and CUDA version."""
