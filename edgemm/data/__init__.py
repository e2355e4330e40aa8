"""Rows to arrays: manifests, npz files and functions become batches; modalities and tasks say how."""
