"""Datasets, the network, cross-validation and the model card."""
