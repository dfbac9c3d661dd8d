"""A lead that streams: which windows are analysed when, and what of them is final."""
