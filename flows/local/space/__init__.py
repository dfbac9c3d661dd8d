"""The current release as a folder for a Hugging Face Space."""
