"""Labels of readers, signals kept with consent, and the gates that a retrained model passes."""
