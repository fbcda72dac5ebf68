"""A result holds what was measured on what, and says what is missing."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.convert.inception import load_inception
from pixeldit_jax.eval import report, statistics_file
from pixeldit_jax.eval.reference import Reference, read_reference
from pixeldit_jax.images import image_sets
from pixeldit_jax.metrics import feature_extractor
from pixeldit_jax.metrics.frechet_distance import Gaussian
from pixeldit_jax.metrics.image_statistics import collect
from pixeldit_jax.metrics.inception_score import InceptionScore
from pixeldit_jax.metrics.kernel_inception_distance import kernel_distance


def _images(count, seed, side=4):
  """Smooth random images, so that two sets overlap."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (count, side // 4, side // 4, 3), np.uint8)
  fine = rng.integers(0, 40, (count, side, side, 3), np.uint8)
  return (coarse.repeat(4, 1).repeat(4, 2) * 0.8 + fine).astype(np.uint8)


def _reference(network, images):
  statistics = collect([images], network, len(images))
  return Reference(statistics, 'ref.npz', 'images', 'sum')


def test_result_is_complete_and_json(tiny_network, tmp_path, monkeypatch):
  few = functools.partial(kernel_distance, subsets=5)
  metrics = [
    metric._replace(of_features=few) if 'kid' in metric.titles else metric
    for metric in report.METRICS
  ]
  monkeypatch.setattr(report, 'METRICS', metrics)
  samples = collect([_images(1200, 0)], tiny_network, 1200)
  reference = _reference(tiny_network, _images(1100, 1))
  settings = {'guidance': 2.75, 'seed': 0}
  network = dataclasses.replace(
    tiny_network, classify=lambda features: np.full(len(features), 3)
  )
  labels = np.arange(1200) % 10
  result = report.evaluate(
    samples, reference, network, settings=settings, labels=labels
  )
  assert set(result['metrics']) == {
    *('fid', 'sfid', 'inception_score', 'inception_score_std'),
    *('precision', 'recall', 'kid', 'kid_std', 'class_agreement'),
  }
  assert result['metrics']['class_agreement'] == 0.1
  assert not result['missing'] and not result['warnings']
  assert result['settings'] == settings
  assert result['samples']['count'] == 1200
  assert result['reference'] == {
    'path': 'ref.npz',
    'kind': 'images',
    'checksum': 'sum',
    'count': 1100,
    'features': 1100,
  }
  assert result['network'] == {
    'name': feature_extractor.INCEPTION,
    'checksum': 'abc',
  }
  path = tmp_path / 'new' / 'result.json'
  report.write_result(path, result)
  assert json.loads(path.read_text()) == result
  printed = report.result_table(result)
  assert f'{result["metrics"]["fid"]:.4f}' in printed and 'ref.npz' in printed


def test_a_set_against_itself(tiny_network):
  images = _images(50, 0)
  samples = collect([images], tiny_network, 50)
  reference = _reference(tiny_network, images)
  result = report.evaluate(samples, reference, tiny_network, settings={})
  metrics = result['metrics']
  assert metrics['fid'] < 1e-6 and metrics['sfid'] < 1e-6
  assert metrics['precision'] == metrics['recall'] == 1
  assert 'subsets of 1,000' in result['missing']['kid']
  assert 'KID' in report.result_table(result)


def test_statistics_alone_give_fid_and_reasons(tiny_network):
  samples = collect([_images(50, 0)], tiny_network, 50)
  reference = _reference(tiny_network, _images(60, 1))
  statistics = dataclasses.replace(
    reference.statistics, spatial=None, features=None
  )
  bare = dataclasses.replace(reference, statistics=statistics)
  result = report.evaluate(samples, bare, tiny_network, settings={})
  assert set(result['missing']) == {'sfid', 'precision', 'recall', 'kid'}
  full = report.evaluate(samples, reference, tiny_network, settings={})
  assert result['metrics']['fid'] == full['metrics']['fid']


def test_too_few_images_are_reported(tiny_network):
  samples = collect([_images(5, 0)], tiny_network, 5)
  reference = _reference(tiny_network, _images(60, 1))
  result = report.evaluate(samples, reference, tiny_network, settings={})
  assert result['ranks']['fid']['samples'] == 4
  (warning,) = result['warnings']
  assert 'of 5 samples has rank 4 of 6' in warning
  assert warning in report.result_table(result)


def test_only_inception_gives_fid(tiny_network):
  network = dataclasses.replace(tiny_network, name='digits')
  samples = collect([_images(50, 0)], network, 50)
  reference = _reference(network, _images(60, 1))
  result = report.evaluate(samples, reference, network, settings={})
  assert 'fid' not in result['metrics']
  assert result['metrics']['frechet_distance'] > 0


def test_features_of_another_width_are_refused(tiny_network):
  samples = collect([_images(50, 0)], tiny_network, 50)
  reference = _reference(tiny_network, _images(60, 1))
  other = dataclasses.replace(
    reference.statistics, pooled=Gaussian(np.zeros(7), np.eye(7))
  )
  reference = dataclasses.replace(reference, statistics=other)
  with pytest.raises(ValueError, match='width 6 and 7'):
    report.evaluate(samples, reference, tiny_network, settings={})


def _sfid_by_definition(a, b):
  """ADM's sFID of two sets of spatial features, from the data themselves.

  With centred data A / sqrt(n - 1) = X, the root of S_a S_b has the trace of
  the root of X Y^T Y X^T, of the size of the set: no covariance is needed.
  """
  means = a.mean(axis=0) - b.mean(axis=0)
  x = (a - a.mean(axis=0)) / np.sqrt(len(a) - 1)
  y = (b - b.mean(axis=0)) / np.sqrt(len(b) - 1)
  across = x @ y.T
  roots = np.sqrt(np.abs(np.linalg.eigvals(across @ across.T)))
  return means @ means + (x**2).sum() + (y**2).sum() - 2 * roots.sum()


def _torch_spatial(network, images):
  """The first 7 channels of mixed_6/conv, by torch-fidelity's network."""
  import torch

  seen = []
  hook = network.Mixed_6d.branch1x1.register_forward_hook(
    lambda module, inputs, output: seen.append(output[:, :7])
  )
  for batch in images.batches(20):
    network(torch.from_numpy(batch.copy()).permute(0, 3, 1, 2))
  hook.remove()
  spatial = torch.cat(seen).permute(0, 2, 3, 1).double().numpy()
  return spatial.reshape(len(spatial), -1)


@pytest.mark.slow
def test_torch_fidelity_on_the_same_two_folders(
  torch_fidelity, torch_inception, tmp_path
):
  """FID, sFID, IS, KID, precision and recall from files to numbers."""
  count, split = 40, 4
  for name, seed in (('samples', 0), ('reference', 1)):
    (tmp_path / name).mkdir()
    for i, image in enumerate(_images(count, seed, side=48)):
      Image.fromarray(image).save(tmp_path / name / f'{i:03d}.png')
  theirs = torch_fidelity.calculate_metrics(
    input1=str(tmp_path / 'samples'),
    input2=str(tmp_path / 'reference'),
    feature_extractor='inception-v3-compat',
    feature_extractor_weights_path=str(torch_inception[1]),
    **dict.fromkeys(('isc', 'fid', 'kid', 'prc'), True),
    kid_subset_size=30,
    isc_splits=count // split,
    samples_shuffle=False,
    cuda=False,
    save_cpu_ram=True,  # no forked workers
    cache=False,
    batch_size=20,
    verbose=False,
  )
  network = feature_extractor.inception_network(
    *load_inception(torch_inception[1]), batch_size=16
  )
  images = image_sets.open_images(tmp_path / 'samples')
  samples = collect(images.batches(7), network, count)
  reference = read_reference(tmp_path / 'reference', network)
  result = report.evaluate(samples, reference, network, settings={})
  metrics = result['metrics']
  fid = theirs['frechet_inception_distance']
  assert metrics['fid'] == pytest.approx(fid, rel=1e-3)
  sfid = _sfid_by_definition(
    _torch_spatial(torch_inception[0], images),
    _torch_spatial(
      torch_inception[0], image_sets.open_images(tmp_path / 'reference')
    ),
  )
  assert metrics['sfid'] == pytest.approx(sfid, rel=1e-3)
  precision_recall = metrics['precision'], metrics['recall']
  theirs_pr = theirs['precision'], theirs['recall']
  assert precision_recall == pytest.approx(theirs_pr)
  assert 0 < metrics['precision'] < 1 and 0 < metrics['recall'] < 1
  kid = kernel_distance(
    samples.features, reference.statistics.features, subset_size=30
  )
  assert kid == pytest.approx(
    tuple(theirs[f'kernel_inception_distance_{s}'] for s in ('mean', 'std')),
    rel=1e-3,
  )
  score = InceptionScore(split)
  for part in network.extract(images.batches(40)):
    score.update(part.logits)
  assert score.result() == pytest.approx(
    tuple(theirs[f'inception_score_{s}'] for s in ('mean', 'std')), rel=1e-3
  )


def test_borders_of_patches_need_no_network(tmp_path):
  network = feature_extractor.no_network()
  images = _images(20, 0, side=8)
  samples, reference = (
    collect([images], network, 20),
    _reference(network, _images(30, 1, side=8)),
  )
  result = report.evaluate(samples, reference, network, settings={}, patch=4)
  metrics = result['metrics']
  assert set(metrics) == {'patch_borders', 'patch_borders_data'}
  # Coarse cells of 4 pixels: their borders are what is seen most.
  assert metrics['patch_borders'] > 1.5 and metrics['patch_borders_data'] > 1.5
  assert not report.evaluate(samples, reference, network, settings={})[
    'metrics'
  ]
  statistics_file.write_statistics(
    tmp_path / 'own.npz', reference.statistics, network, 'here'
  )
  again = read_reference(tmp_path / 'own.npz', network)
  found = report.evaluate(samples, again, network, settings={}, patch=4)
  assert found['metrics'] == metrics
