"""Prefect flows and the adapters to MLflow, BentoML, Evidently and the machine."""
