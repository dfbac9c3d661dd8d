"""Records of databases and of labelled traffic: where they are found, and how they are prepared."""
