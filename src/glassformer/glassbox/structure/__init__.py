"""The structure of a model, drawn as the textbook draws it."""
