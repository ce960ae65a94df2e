"""Analyses: known formulas on the tensors of one call."""
