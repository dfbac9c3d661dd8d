"""Rollouts of a candidate: its journal, its stages, approval, and the way back."""
