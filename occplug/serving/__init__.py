"""A trained model at work on a user's images: embedding, galleries, "same person?", export.

`pictures` reads whatever holds images, `gallery` searches, `calibration` says what a distance means, `cluster` groups,
`exporting` and `hub` hand a model on. Nothing here is imported before it is asked for.
"""
