"""The line that says how an evaluation was done; figures with different lines are not comparable."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["protocol_line"]

CAMERA_RULE = "gallery images of the query's person and camera left out"
NO_CAMERA_RULE = "camera filter no"


def protocol_line(
    method: str,
    neck: str | None = None,
    flip: bool = False,
    cameras: bool | str = False,
    stride=None,
    metric: str = "euclidean",
    reranked: tuple[int, int, float] | None = None,
    squared: bool = False,
    camera_rule: str = CAMERA_RULE,
    combined: bool = False,
    unfiltered: Sequence[str] = (),
    resize: str = "pil",
    amp: str = "none",
) -> str:
    """What is printed under the results and kept in `metrics.json`.

    Args:
        method: registered name of the method or stock model.
        neck: "before" or "after" the BNNeck, None where there is no choice.
        flip: embeddings averaged with those of the mirrored image.
        cameras: the model is given the camera of each image (SIE); a text says more than yes or no.
        stride: patch stride of the backbone in pixels (a number or height and width), None where there is none.
        metric: "method" for the method's distance, or a distance's name.
        reranked: k1, k2 and lambda of k-reciprocal re-ranking, None without.
        squared: what is re-ranked are squared distances; plain ones are squared first, as torchreid does.
        camera_rule: which gallery images do not count.
        combined: the model was trained on the query and gallery images, too.
        unfiltered: data sets whose cameras are unknown, so that all gallery images count; "" for all of them.
        amp: `eval.amp`; the precision of embeddings where it is not "none".
        resize: `data.resize`; images are loaded with other pixels than Pillow's where it is not "pil".
    """
    if unfiltered:
        named = ", ".join(unfiltered)
        camera_rule = f"{NO_CAMERA_RULE} ({named}); of others {camera_rule}" if named else NO_CAMERA_RULE
    parts = [
        method,
        neck and f"feature {neck} neck",
        f"flip test {_yes(flip)}",
        f"camera input {cameras if isinstance(cameras, str) else _yes(cameras)}",
        stride is not None and f"stride {_size(stride)}",
        "distance of the method" if metric == "method" else f"{metric} distance",
        f"re-ranking {_reranking(reranked, squared)}",
        camera_rule,
        amp != "none" and f"embeddings in {amp}",
        resize != "pil" and f"images resized by {resize}",
        combined and "query and gallery images trained on (data.combineall)",
    ]
    return "; ".join(part for part in parts if part)


def _reranking(settings: tuple[int, int, float] | None, squared: bool) -> str:
    if not settings:
        return "no"
    return "k1 = {}, k2 = {}, lambda = {}".format(*settings) + f" of {'squared' if squared else 'plain'} distances"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _size(stride) -> str:
    return "x".join(str(s) for s in stride) if isinstance(stride, (tuple, list)) else str(stride)
