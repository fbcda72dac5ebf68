"""Every promise of the README names tests, and they are there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / 'pixeldit_jax' / 'train' / 'README.md'


def test_each_promise_has_its_tests():
  text = README.read_text().split('## Promises')[1].split('\n## ')[0]
  rows = re.findall(r'^\| (?!promise)(.*) \| (.*) \|$', text, re.M)
  assert len(rows) > 20
  for promise, tests in rows:
    names = re.findall(r'`(tests/\S+\.py)(?:::(\w+))?`', tests)
    assert names and len(names) == len(tests.split(', ')), promise
    for path, name in names:
      assert f'\ndef {name}' in (ROOT / path).read_text(), (path, name)
