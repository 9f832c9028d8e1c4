"""The methods, a dict of functions of one signature: (clip, concept, gradients, exam) -> Outcome.

To add one: write methods/<name>.py with a function of that signature that returns edits on named
tensors, and name it here. Hosts, metrics and pages never learn who made an edit.
"""

from slugdemo.methods.slug import slug

METHODS = {"slug": slug}
