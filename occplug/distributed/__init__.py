"""Training on several processes, and on parts of a batch, with the result of one process on the whole batch.

Each process (rank) draws the same global batch and decodes the images of its own part. Modules whose output for an
image depends on that image alone (:class:`Splitter`) run on that part, or on micro-batches of it, and their outputs are
gathered with gradient; what follows, necks, heads and losses, sees the whole batch and is computed on every rank alike.
"""

from occplug.distributed.parts import Pairs, check_deal, deal_rows, each_batch
from occplug.distributed.ranks import ONE, Ranks, current_ranks, join_ranks
from occplug.distributed.split import SplitImages, per_image
from occplug.distributed.splitter import Splitter, check_agreement, tensor_digests

__all__ = [
    "ONE",
    "Pairs",
    "Ranks",
    "SplitImages",
    "Splitter",
    "check_agreement",
    "check_deal",
    "current_ranks",
    "deal_rows",
    "each_batch",
    "join_ranks",
    "per_image",
    "tensor_digests",
]
