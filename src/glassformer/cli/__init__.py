"""The command `glassformer`, which needs the extra `cli`."""
