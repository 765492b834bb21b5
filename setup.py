"""Packaging of occplug; tool settings are in pyproject.toml.

The version stands in occplug/__init__.py alone. Configs stay at the root of the repository and go into the wheel as
`occplug/configs`; of the zoo's weights only small ones go in, the others are found in a checkout.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "occplug" / "__init__.py").read_text()).group(1)
# the demo's two methods and the stock model beside them; with all weights the wheel would have 38 MB
WEIGHTS = ["clip_reid-vit_tiny-synthocc", "dpl_reid-vit_tiny-synthocc", "torchreid-osnet_x0_25-synthocc"]


class BuildWithConfigs(build_py):
    """Adds `configs/` to the package that is built; an editable install reads them where they are."""

    def run(self):
        """Copy the package, then the configs into it."""
        if self.editable_mode:
            return super().run()
        package = Path(self.build_lib) / "occplug"
        shutil.rmtree(package, ignore_errors=True)  # what an earlier build left would get into the wheel
        super().run()
        shutil.copytree(HERE / "configs", package / "configs")


EXTRAS = {
    "faiss": ["faiss-cpu>=1.11"],  # the first with RaBitQ
    "milvus": ["pymilvus>=3.0", "milvus-lite>=3.0"],
    "onnx": ["onnx>=1.16", "onnxruntime>=1.18"],
}
DEV = [
    "pytest>=8.0",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "vermin>=1.6",
    "mypy>=1.15",
    "mkdocs-material>=9.6",
    "mkdocstrings[python]>=0.30",
    "nbconvert>=7.10",
    "ipykernel>=6.25",
]
DEV += ["types-PyYAML", "types-requests", "types-tabulate", "types-tqdm"]

setup(
    name="occplug",
    version=VERSION,
    description="CLIP-based occluded person re-identification for torchreid",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["person re-identification", "occlusion", "CLIP", "torchreid"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Image Recognition",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
    ],
    python_requires=">=3.10",
    packages=find_packages(include=["occplug", "occplug.*"]),
    package_data={
        "occplug": [
            "py.typed",
            "assets/*",
            "assets/occluders/*",
            "zoo/index.yaml",
            *(f"zoo/checkpoints/{name}.safetensors" for name in WEIGHTS),
        ]
    },
    include_package_data=False,  # else all that is in the sdist goes into the wheel
    cmdclass={"build_py": BuildWithConfigs},
    # The minimums were installed and tested together on Python 3.10; the CI workflow does so with each change.
    install_requires=[
        "torch>=2.10",  # weights_only reads hostile files safely from here on (CVE-2026-24747)
        "torchvision>=0.25",
        "torchreid>=0.2.5",  # no upper bound: the upstream source installs under the same name as 1.4.0
        "open_clip_torch>=3.0",
        "timm>=1.0.22",  # builds its ViTs on the meta device
        "mmengine>=0.10.7",
        "yacs>=0.1.8",
        "gdown>=6.5",
        "tabulate>=0.9",
        "rich>=13.7",
        "numpy>=2.0",
        "safetensors>=0.4.5",
        "huggingface_hub>=0.34",
        "tqdm>=4.66.3",  # CVE-2024-34062
        "requests>=2.33",  # what gdown's failures are; CVE-2024-47081, CVE-2026-25645
        "filelock>=3.20.3",  # CVE-2025-68146, CVE-2026-22701
        "jinja2>=3.1.6",  # CVE-2025-27516
        "matplotlib>=3.9",  # this and the next three: the first that import with numpy 2
        "scipy>=1.13",
        "scikit-learn>=1.5",
        "tensorboard>=2.18",
        "opencv-python>=4.10.0.84",  # torchreid 0.2.5 declares no dependencies; these are what it imports
        "Pillow>=12.2",  # CVE-2026-25990 and later
        # the first with wheels for numpy 2 and Python 3.13; where there are none, images load without them, only slower
        "simplejpeg>=1.8; python_version < '3.14'",
        "numba>=0.61; python_version < '3.14'",
        "ImageHash>=4.3.2",  # near-duplicates; the first tested with numpy 2
        "packaging>=24.0",
        "six>=1.16",
        "h5py>=3.11",
    ],
    extras_require={**EXTRAS, "dev": [*DEV, *(package for extra in EXTRAS.values() for package in extra)]},
    entry_points={"console_scripts": ["occplug = occplug.cli:entry_point"]},
)
