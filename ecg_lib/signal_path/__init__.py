"""The one way from samples to the input of the network."""
