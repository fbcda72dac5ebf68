"""The embedded digits: a classifier, features, a teacher, the ablation."""
