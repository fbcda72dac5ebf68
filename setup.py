"""Tells setuptools what pyproject.toml cannot: where two packages are.

configs/ and launch/ stay at the top of a clone, for people, and are packages
inside pixeldit_jax once installed.
"""

from setuptools import find_packages, setup

setup(
  packages=[
    *find_packages(include=['pixeldit_jax', 'pixeldit_jax.*']),
    'pixeldit_jax.configs',
    'pixeldit_jax.launch',
  ],
  package_dir={
    'pixeldit_jax.configs': 'configs',
    'pixeldit_jax.launch': 'launch',
  },
)
