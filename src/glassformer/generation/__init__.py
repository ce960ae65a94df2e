"""Generation: settings, processors of scores, stopping criteria and the search over a model's steps."""
