"""Packaging of occplug; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "occplug" / "__init__.py").read_text()).group(1)

EXTRAS = {
    "faiss": ["faiss-cpu>=1.11"],  # the first with RaBitQ
    "milvus": ["pymilvus>=3.0", "milvus-lite>=3.0"],
    "onnx": ["onnx>=1.16", "onnxruntime>=1.18", "onnxscript>=0.3"],
}
DEV = ["pytest>=8.0", "pytest-timeout", "pytest-xdist>=3.5", "hypothesis", "ruff>=0.6"]

setup(
    name="occplug",
    version=VERSION,
    description="CLIP-based occluded person re-identification for torchreid",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["occplug", "occplug.*"]),
    package_data={"occplug": ["assets/*", "assets/occluders/*", "zoo/index.yaml", "zoo/checkpoints/*"]},
    install_requires=[
        "torch>=2.6",  # torch.serialization.safe_globals, weights_only by default
        "torchvision>=0.21",
        "torchreid>=0.2.5",  # no upper bound: the upstream source installs under the same name as 1.4.0
        "open_clip_torch>=3.0",
        "timm>=1.0",
        "mmengine>=0.10.7",
        "yacs>=0.1.8",
        "gdown>=6.5",
        "tabulate>=0.9",
        "numpy>=2.0",
        "safetensors>=0.4",
        "huggingface_hub>=0.23",
        "tqdm>=4.60",
        "requests>=2.28",  # what gdown's failures are
        "filelock>=3.12",
        "jinja2>=3.0",
        "scikit-learn>=1.3",  # calibration and clustering
        "matplotlib>=3.7",
        # torchreid 0.2.5 declares no dependencies; these are what it imports
        "scipy>=1.10",
        "tensorboard>=2.10",
        "opencv-python>=4.8",
        "Pillow>=10.0",
        "six",
        "h5py",
    ],
    extras_require={**EXTRAS, "dev": [*DEV, *(package for extra in EXTRAS.values() for package in extra)]},
    entry_points={"console_scripts": ["occplug = occplug.cli:entry_point"]},
)
