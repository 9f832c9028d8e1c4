"""The one exception whose message is a sentence for the visitor."""


class SlugError(Exception):
    """Something that a visitor can cause or fix; the message is a whole sentence."""
