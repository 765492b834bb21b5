"""One run, from a config to its figures: training, evaluation, records, trained models for use."""
