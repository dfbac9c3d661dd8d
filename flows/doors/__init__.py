"""One module or folder for each outside system: MLflow, BentoML, Evidently, git, archives, UIs."""
