"""The page of a drift check: its verdict, trends over releases, and drifted beats."""
