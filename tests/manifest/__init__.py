"""Manifests: what is read of tables and of the files of other programs."""
