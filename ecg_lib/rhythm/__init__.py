"""Rhythm, heart rate, shapes of V beats and risk."""
