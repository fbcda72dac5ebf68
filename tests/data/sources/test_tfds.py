"""TFDS data sets, read without TensorFlow, and what is wrong with some."""

import io
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from pixeldit_jax.data import transforms
from pixeldit_jax.data.sources import open_source


@pytest.mark.parametrize('spec', ['tfds:mnist', 'tfds:mnist:', 'tfds::train'])
def test_tfds_specs_need_a_name_and_a_split(spec):
  with pytest.raises(ValueError, match='tfds:name:split'):
    open_source.open_source(spec)


def test_an_unprepared_tfds_data_set_says_how_to_prepare_it(tmp_path):
  with pytest.raises(ValueError, match='download_and_prepare'):
    open_source.open_source(f'tfds:imagenet2012:train?{tmp_path}')


def test_the_data_dir_of_tfds_without_the_data_set(tmp_path, monkeypatch):
  constants = 'tensorflow_datasets.core.constants.DATA_DIR'
  monkeypatch.setattr(constants, str(tmp_path))
  with pytest.raises(ValueError, match='(?s)the folder where it is.*prepare'):
    open_source.open_source('tfds:imagenet2012:train')


def test_an_unknown_tfds_data_set_is_told_in_one_line(tmp_path):
  with pytest.raises(ValueError) as error:
    open_source.open_source(f'tfds:imagenet2021:train?{tmp_path}')
  assert "knows no data set 'imagenet2021'" in str(error.value)
  assert str(error.value).count('\n') == 0


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  """A data set that TFDS prepared as ArrayRecord: 12 tiny flowers."""
  tfds = pytest.importorskip('tensorflow_datasets')

  class TinyFlowers(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    @classmethod
    def _get_pkg_dir_path(cls):
      return path

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {
            'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.ClassLabel(names=['rose', 'iris']),
            'file_name': tfds.features.Text(),
            'caption': tfds.features.Sequence(tfds.features.Text()),
          }
        ),
      )

    def _split_generators(self, manager):
      train, test = self._generate_examples, self._generate_unlabelled
      return {'train': train(), 'test': test()}

    def _generate_unlabelled(self):
      ((_, example),) = self._generate_examples(1)
      yield 0, example | {'label': -1}

    def _generate_examples(self, count=12):
      for i in range(count):
        image = io.BytesIO()
        Image.new('RGB', (9, 8), (i, i, i)).save(image, 'PNG')
        image.seek(0)
        yield (
          i,
          {
            'image': image,
            'label': i % 2,
            'file_name': f'{i}.png',
            'caption': [f'flower {i}', 'a flower'],
          },
        )

  path = tmp_path_factory.mktemp('tfds')
  builder = TinyFlowers(data_dir=path, file_format='array_record')
  builder.download_and_prepare()
  return path


def test_a_prepared_tfds_data_set_is_read_without_tensorflow(
  tfds_dir, monkeypatch
):
  monkeypatch.setitem(sys.modules, 'tensorflow', None)  # cannot be imported
  source = open_source.open_source(f'tfds:tiny_flowers:train?{tfds_dir}')
  assert len(source) == 12 and source.class_names == ('rose', 'iris')
  seen = set()
  for i in range(12):
    example = source[i]
    pixels = np.asarray(transforms.decode(example['image']))
    value = int(pixels[0, 0, 0])
    assert pixels.shape == (8, 9, 3)
    assert example['label'] == value % 2
    assert example['name'] == f'train/{i:08d}/{value}.png'
    texts = [caption.text for caption in example['captions']]
    assert texts == [f'flower {value}', 'a flower']
    seen.add(value)
  assert seen == set(range(12))
  assert pickle.loads(pickle.dumps(source))[3] == source[3]


def test_a_tfds_split_may_be_a_slice(tfds_dir):
  source = open_source.open_source(
    f'tfds:tiny_flowers:1.0.0:train[:25%]?{tfds_dir}'
  )
  assert len(source) == 3


def test_an_unlabelled_tfds_record_needs_a_caption(tfds_dir):
  source = open_source.open_source(f'tfds:tiny_flowers:test?{tfds_dir}')
  assert source[0]['label'] == -1 and source[0]['captions']
  source.captions = False  # as of a data set without them
  with pytest.raises(transforms.BadExample, match='no label'):
    source[0]


def test_a_damaged_tfds_record_is_a_bad_example(tfds_dir, tmp_path):
  copy = tmp_path / 'tfds'
  shutil.copytree(tfds_dir, copy)
  (shard,) = copy.rglob('*train.array_record-*')
  data = bytearray(shard.read_bytes())
  at = data.find(b'IHDR', data.find(b'IHDR') + 1)  # in the second record
  data[at] ^= 0xFF
  shard.write_bytes(data)
  source = open_source.open_source(f'tfds:tiny_flowers:train?{copy}')
  assert source[0]['label'] in (0, 1)
  with pytest.raises(transforms.BadExample, match='record 1'):
    source[1]


def test_a_tfds_shard_that_is_not_whole_is_refused_at_the_start(
  tfds_dir, tmp_path
):
  copy = tmp_path / 'tfds'
  shutil.copytree(tfds_dir, copy)
  (shard,) = copy.rglob('*train.array_record-*')
  whole = shard.read_bytes()
  source = open_source.open_source(f'tfds:tiny_flowers:train[:25%]?{copy}')
  source.check(resolution=8)
  shard.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(ValueError, match='1 of 1 files .* incomplete'):
    source.check(resolution=8)
  shard.unlink()
  with pytest.raises(ValueError, match='No such file'):
    source.check(resolution=8)


def test_integer_labels_and_captions_of_several_features(tmp_path):
  """The features of coco_captions, under a name whose program is not here."""
  tfds = pytest.importorskip('tensorflow_datasets')
  features = tfds.features
  picture = features.Image(shape=(None, None, 3))
  texts = features.Sequence({'id': features.Scalar(np.int64),
                             'text': features.Text()})  # fmt: skip
  forms = {
    'Numbered': {'image': picture, 'label': features.Scalar(np.int64)},
    'CocoCaptions': {'image': picture, 'captions': texts},
  }

  def example(i, form):
    image = io.BytesIO()
    Image.new('RGB', (9, 8), (i, i, i)).save(image, 'PNG')
    image.seek(0)
    given = {
      'label': i % 3,
      'captions': [{'id': k, 'text': f'{k} of {i}'} for k in range(2)],
    }
    return {'image': image} | {k: given[k] for k in form if k != 'image'}

  for name, form in forms.items():
    members = {
      'VERSION': tfds.core.Version('1.1.0'),
      '__module__': __name__,
      '_get_pkg_dir_path': classmethod(lambda cls: tmp_path),
      '_info': lambda self, form=form: tfds.core.DatasetInfo(
        builder=self, features=features.FeaturesDict(form)
      ),
      '_split_generators': lambda self, manager: {
        'train': self._generate_examples()
      },
      '_generate_examples': lambda self, form=form: (
        (i, example(i, form)) for i in range(6)
      ),
    }
    made = type(f'Own{name}', (tfds.core.GeneratorBasedBuilder,), members)
    made(data_dir=tmp_path, file_format='array_record').download_and_prepare()

  spec = 'tfds:own_{}:train?' + str(tmp_path)
  numbered = open_source.open_source(spec.format('numbered'))
  assert numbered.class_names == ('0', '1', '2')
  copy = pickle.loads(pickle.dumps(numbered))
  assert copy.class_names == numbered.class_names
  assert sorted(copy[i]['label'] for i in range(6)) == [0, 0, 1, 1, 2, 2]

  # The public name: its program needs TensorFlow.
  old = tmp_path / 'own_coco_captions' / '1.1.0'
  new = tmp_path / 'coco_captions' / '2014' / '1.1.0'
  new.mkdir(parents=True)
  for file in old.iterdir():
    text = file.name.replace('own_coco_captions', 'coco_captions')
    (new / text).write_bytes(file.read_bytes())
  about = json.loads((new / 'dataset_info.json').read_text())
  about |= {'name': 'coco_captions', 'configName': '2014'}
  (new / 'dataset_info.json').write_text(json.dumps(about))
  coco = open_source.open_source(f'tfds:coco_captions/2014:train?{tmp_path}')
  assert coco.captions and len(coco) == 6
  texts = [caption.text for caption in coco[0]['captions']]
  assert [text[:5] for text in texts] == ['0 of ', '1 of ']
