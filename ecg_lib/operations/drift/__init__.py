"""From observed beats to KEEP, RETRAIN or ROLLBACK."""
