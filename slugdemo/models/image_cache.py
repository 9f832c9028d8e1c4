"""Pictures that need not be made again; knows pictures and keys only."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from PIL.Image import Image


class Gallery:
    """The last `size` pictures by what they were made from; safe in threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._pictures: OrderedDict[Hashable, Image] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Image | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def clear(self) -> int:
        """Forgets all of them; how many there were."""
        with self._lock:
            count = len(self._pictures)
            self._pictures.clear()
        return count

    def put(self, key: Hashable, picture: Image) -> None:
        with self._lock:
            self._pictures[key] = picture
            if len(self._pictures) > self._size:
                self._pictures.popitem(last=False)
