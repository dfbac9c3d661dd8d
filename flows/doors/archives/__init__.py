"""Records of archives: what is published, and how it is downloaded."""
