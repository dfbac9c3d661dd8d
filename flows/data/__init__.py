"""Flows and files of ingestion and dataset versions."""
