"""The Transformer, one file a concept: embedding, positions, masks, attention, feed-forward, norms, layer, stack."""
