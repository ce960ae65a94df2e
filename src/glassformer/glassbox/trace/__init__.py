"""Traces: one call recorded under the names of its tensors, told, saved and compared."""
