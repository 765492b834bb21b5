"""Files, downloads, pictures and measurements: nothing here knows about ReID."""
