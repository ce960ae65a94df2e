"""From the textbook's terms to the calls of a model, and back from any name."""
