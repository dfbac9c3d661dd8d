"""The commands of `ecg` on the platform, on models and on the state of a home."""
