"""Images from registries (OCI distribution specification 1.1): made of layers, or files as they are (ORAS)."""
