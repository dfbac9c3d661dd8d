"""One module for each outside system: MLflow, BentoML, Evidently, git, PhysioNet."""
