"""Analysis of whole recordings up to a day."""
