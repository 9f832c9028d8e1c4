"""What each visitor looks at now. Knows views and locks; knows no gradio, no models, no pages."""

import threading
from collections import OrderedDict
from collections.abc import Callable

from slugdemo.ui.view import View

REMEMBERED = 1000  # visitors; one whose line broke may come back


class Visitors:
    """The views of all visitors, by name, each with the work that may change it.

    A change counts from the moment that it comes in, also while the work that shows it still waits
    or is stopped: what a visitor does next starts from there. Of more than `REMEMBERED` visitors
    the one who did nothing for the longest time is forgotten.
    """

    def __init__(self) -> None:
        self._views: OrderedDict[str, tuple[View, object]] = OrderedDict()
        self._lock = threading.Lock()

    def view(self, visitor: str) -> View:
        """What a visitor looks at; an empty view for one who has just come."""
        with self._lock:
            return self._views.get(visitor, (View(), None))[0]

    def begin(
        self, visitor: str, work: object, change: Callable[[View], View] = lambda view: view
    ) -> View:
        """The view that `work` begins at, after a change; only this work may go on from there.

        Whatever `change` raises is passed on; then nothing changes.
        """
        with self._lock:
            view = change(self._views.get(visitor, (View(), None))[0])
            self._views[visitor] = view, work
            self._views.move_to_end(visitor)
            if len(self._views) > REMEMBERED:
                self._views.popitem(last=False)
        return view

    def put(self, visitor: str, work: object, view: View) -> None:
        """`work` shows another view; nothing changes when the visitor has gone on to other work."""
        with self._lock:
            if self._views.get(visitor, (view, None))[1] is work:
                self._views[visitor] = view, work
