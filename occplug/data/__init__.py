"""What a run reads: torchreid's data manager over our pipelines, and batch entries beyond images."""
