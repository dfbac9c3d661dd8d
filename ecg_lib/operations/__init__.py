"""Settings, releases, promotion, the prediction log and drift decisions."""
