"""Jobs that analyse uploaded recordings."""
