"""Live leads: when windows of the signal are analysed, and which beats are final."""
