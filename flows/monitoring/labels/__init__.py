"""Labels of readers, and signals that are kept with consent."""
