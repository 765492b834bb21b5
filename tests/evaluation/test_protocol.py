"""The protocol line, word by word."""

from occplug.evaluation import protocol_line


def test_a_methods_line():
    options = {"neck": "before", "flip": True, "cameras": True, "stride": 12, "metric": "method"}
    line = protocol_line("clip_reid", **options, reranked=(20, 6, 0.3))
    assert line == (
        "clip_reid; feature before neck; flip test yes; camera input yes; stride 12; distance of the method; "
        "re-ranking k1 = 20, k2 = 6, lambda = 0.3 of plain distances; gallery images of the query's person and camera "
        "left out"
    )
    squared = protocol_line("clip_reid", **options, reranked=(20, 6, 0.3), squared=True)
    assert squared == line.replace("of plain", "of squared")
    assert "squared" not in protocol_line("clip_reid", **options, squared=True)  # without re-ranking nothing is changed


def test_a_stock_models_line():
    assert protocol_line("osnet_x0_25", metric="cosine") == (
        "osnet_x0_25; flip test no; camera input no; cosine distance; re-ranking no; "
        "gallery images of the query's person and camera left out"
    )


def test_a_stride_of_two_numbers():
    assert "; stride 12x16; " in protocol_line("x", stride=(12, 16))


def test_other_precision_and_resize_are_said():
    line = protocol_line("clip_reid", amp="bf16", resize="tensor")
    assert line.endswith("left out; embeddings in bf16; images resized by tensor")
    assert protocol_line("clip_reid", amp="none", resize="pil") == protocol_line("clip_reid")
