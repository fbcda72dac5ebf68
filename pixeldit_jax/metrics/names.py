"""The metrics: what they are called, and which network they need."""

# Names in results and in TensorBoard, and as people write them.
NAMES = {
  'fid': 'FID',
  'frechet_distance': 'Frechet',
  'sfid': 'sFID',
  'inception_score': 'IS',
  'precision': 'precision',
  'recall': 'recall',
  'kid': 'KID',
  'class_agreement': 'class agreement',
}
# Feature networks, and the metrics of evaluations during training with each.
FEATURES = {
  'inception': ('fid', 'sfid', 'inception_score'),
  'digits': ('frechet_distance', 'class_agreement', 'precision', 'recall'),
}
