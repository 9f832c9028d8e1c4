"""Pictures that need not be made again; knows pictures and keys only."""

import threading
from collections.abc import Hashable

from cachetools import LRUCache
from PIL.Image import Image


class ImageCache:
    """The last `size` pictures by what they were made from; safe in threads."""

    def __init__(self, size: int) -> None:
        self._pictures: LRUCache[Hashable, Image] = LRUCache(size)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Image | None:
        with self._lock:
            return self._pictures.get(key)

    def put(self, key: Hashable, picture: Image) -> None:
        with self._lock:
            self._pictures[key] = picture

    def clear(self) -> int:
        """Forgets all of them; how many there were."""
        with self._lock:
            count = len(self._pictures)
            self._pictures.clear()
        return count
