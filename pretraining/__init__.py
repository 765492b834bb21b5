"""Training the embedded tiny CLIP from nothing, on rendered people and the sentences that describe them.

`pool` renders, `texts` words and tokenises, `trainer` trains, `scoring` measures, `card` writes the model card.
"""
