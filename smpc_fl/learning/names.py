"""What owners call the vectors that they keep. No torch here."""

OWN = "private"
"""The private tensors of the model, one behind the other."""
PERSONAL = "personal"
"""A whole model of the owner's own."""
RESIDUAL = "residual"
"""What compression has lost so far."""
