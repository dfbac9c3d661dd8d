"""The gradual rollout of a candidate: its file, comparisons with the champion, and bounds."""
