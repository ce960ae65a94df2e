"""Every error this library raises on purpose, each a subclass of what the peer raises in the same place.

A message names the thing that is wrong and ends in what to do about it.
"""


class GlassformerError(Exception):
    """The root of the errors below, to catch them all at once."""


class MissingFileError(GlassformerError, OSError):
    """A folder or repository lacks the file that a call needs, or the hub cannot be reached."""


class BrokenFileError(GlassformerError, OSError):
    """A file is there, but is truncated, malformed, larger than it may be, or points outside its folder."""


class ConfigError(GlassformerError, ValueError):
    """A configuration names something unknown, contradicts itself, or asks for what a family does not compute."""


class WrongClassError(GlassformerError, ValueError):
    """The checkpoint is of another kind than the class it was asked to load into."""


class WeightsError(GlassformerError, RuntimeError):
    """Tensors are missing, unexpected or of the wrong shape for the model."""


class InputError(GlassformerError, ValueError, TypeError):
    """The arguments of a call are missing, contradictory or of the wrong shape."""


class RangeError(InputError, IndexError):
    """A token id or a position is beyond what the model has a row for."""


class TokenizerError(GlassformerError, ValueError):
    """A tokenizer was asked for something that it cannot do."""


class GenerationError(GlassformerError, ValueError):
    """Generation settings are unknown, contradictory or not possible for this model."""


class MissingExtraError(GlassformerError, ImportError):
    """A call needs a library that comes with an extra of this package, which is not installed."""
