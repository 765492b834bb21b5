"""What can be looked at: figures of rankings, attention, augmentation and mixing, and what masks and tokens say."""
