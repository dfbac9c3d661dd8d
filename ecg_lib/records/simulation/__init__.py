"""Simulated patients and the ECG that they produce."""
