"""A trained model at work on images of one's own: embedding, galleries, "same person?", export.

`pictures` reads whatever holds images, `gallery` searches, `calibration` says what a distance means, `cluster` groups,
`exporting` and `hub` hand a model on. Nothing here is imported before it is asked for.
"""
