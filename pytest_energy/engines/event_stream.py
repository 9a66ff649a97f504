"""An event stream (text/event-stream) → the data of its events.

As the HTML standard has it, https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.5
and 9.2.6. An event's type and id say nothing that its data does not, and are ignored.
"""

import codecs


class EventStream:
    """Takes the pieces of one stream as they come."""

    def __init__(self) -> None:
        self._line = b""  # not yet ended
        self._data: list[bytes] = []  # lines of the event that is not yet ended
        self._started = self._after_cr = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that ends in this piece; events without data are left out."""
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]  # the rest of CR LF
        self._after_cr = piece.endswith(b"\r")
        *lines, rest = (self._line + piece + b".").splitlines()  # at CR LF, LF and CR alone
        self._line = rest[:-1]
        events = []
        for line in lines:
            if not self._started:
                self._started, line = True, line.removeprefix(codecs.BOM_UTF8)
            if line:
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._data.append(value.removeprefix(b" "))
            elif self._data:
                data, self._data = b"\n".join(self._data), []
                if data:
                    events.append(data)
        return events

    @property
    def unfinished(self) -> bytes:
        """What has come of an event that has not ended."""
        return b"\n".join([*self._data, self._line])
