"""Prefect's and MLflow's servers, closed to web pages and other users of the machine."""
