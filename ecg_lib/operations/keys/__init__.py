"""API keys, the files of other secrets, and signatures of releases."""
