"""Stage container images onto HPC nodes: one download, one verified copy, one mount."""

__version__ = "0.1.0"
