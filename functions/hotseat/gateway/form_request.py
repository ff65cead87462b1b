"""An inference request with a form. A large form is in a file until it is answered, not in memory."""

from collections.abc import Callable
from functools import partial

from hotseat.api.wildcards import name_for_engine
from hotseat.core.errors import HotseatError
from hotseat.gateway import relay
from hotseat.gateway.accepted_head import AcceptedHead
from hotseat.gateway.engine_exchange import reach
from hotseat.gateway.fallback_routing import RoutedRequest
from hotseat.gateway.filters import changes_of
from hotseat.gateway.form import Form, form_edits
from hotseat.gateway.http.connection import JOINED
from hotseat.gateway.http.request import Request
from hotseat.gateway.http.response import Response
from hotseat.gateway.inference import Inference, InferenceRequest
from hotseat.gateway.request_traces import with_trace
from hotseat.gateway.spool import Spool, SpooledForm


class FormRequest(InferenceRequest):
    """One request. Up to JOINED bytes it is as any other."""

    __slots__ = ("_bytes_on_disk", "_spool", "_spooled", "_upload")

    def __init__(self, inference: Inference, request: Request, head: AcceptedHead, spool: Spool) -> None:
        size = request.length or 0
        self._spool = spool
        self._spooled: SpooledForm | None = None
        self._upload: relay.Upload | None = None
        self._bytes_on_disk = spool.budget.take(size) if JOINED < size <= spool.max_size else 0
        try:
            super().__init__(inference, request, head, min(size, JOINED))
        except HotseatError:
            spool.budget.give_back(self._bytes_on_disk)
            raise
        self.max_body = spool.max_size

    # The body ---------------------------------------------------------------------------------------------------------

    def received(self, size: int) -> None:
        """Count the bytes of a body without a length."""
        if size <= JOINED:
            super().received(size)
        elif size > self._bytes_on_disk:
            self._bytes_on_disk += self._spool.budget.take(size - self._bytes_on_disk)

    def open_sink(self, drained: Callable[[], None]) -> SpooledForm:
        """Return where a large form goes."""
        self._spooled = SpooledForm(self._spool, self._head.boundary, drained)
        return self._spooled

    def serve(self, response: Response) -> None:
        """Serve the request. Its body is complete, but may not have been written yet."""
        spooled = self._spooled
        if spooled is None:
            super().serve(response)
            return
        self._response = response
        response.writer = self
        spooled.finish(lambda: self._guarded(lambda: self._parsed(spooled.form())))

    # The answer -------------------------------------------------------------------------------------------------------

    def _relay(self, routed: RoutedRequest) -> None:
        form, spooled = self._body, self._spooled
        if spooled is None:
            super()._relay(routed)
            return
        assert isinstance(form, Form)  # noqa: S101
        if self._news is not None:
            self._news.end()
        changes = changes_of(routed, begun=self._response.begun)
        edits = form_edits(
            form, name_for_engine(routed.route.model, routed.requested_name), self._head.boundary, changes
        )
        self._upload = spooled.upload(edits)
        self._send(routed, b"")

    def _send(self, routed: RoutedRequest, raw: bytes) -> None:
        if self._upload is None:
            super()._send(routed, raw)
            return
        call = relay.Call(
            routed.address,
            "POST",
            self._head.target,
            self._request.fields,
            b"",
            routed.route.model.spec.lifecycle.response_start_timeout or None,
            plain=self._response.begun,
            upload=self._upload,
            judge=routed.judge,
        )
        if self._trace is not None:
            with_trace(call, self._trace)
        access, make = routed.route.access, relay.UploadExchange
        exchange_of = make if access is None else partial(reach, access, make, self._route.capability)
        sink = self._sink(routed)
        exchange = exchange_of(self._inference.connections, call, sink, self._relayed, routed.headers)
        self._exchange = exchange
        routed.pending_request.on_abort(exchange.cancel)
        exchange.start()

    # The end ----------------------------------------------------------------------------------------------------------

    def _end(self, status: int) -> None:
        """Count the request, and release what it holds."""
        super()._end(status)
        self._spool.budget.give_back(self._bytes_on_disk)
        self._bytes_on_disk = 0
        if self._spooled is not None:
            self._spooled.close()
