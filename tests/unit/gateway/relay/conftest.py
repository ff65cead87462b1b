import pytest

from tests.unit.gateway.http.running import serving


@pytest.fixture(params=["uvloop", "asyncio"])
def server(request):
    with serving(loop=request.param) as running:
        yield running
