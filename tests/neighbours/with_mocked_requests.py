"""What tests of requests use: responses and requests-mock, which answer without a connection, and betamax, which records."""

import tempfile

import betamax
import requests
import requests_mock
import responses
from exchange import URL, play, tell

MOCKED = "https://mocked.test/"

with responses.RequestsMock() as mock:
    mock.get(MOCKED, json={"mocked": True})
    mock.get(MOCKED, body=requests.ConnectTimeout("no"))
    mock.add_passthru(URL)
    tell(requests.get(MOCKED).json(), requests.get(URL + "/json").json())
    try:
        requests.get(MOCKED)
    except requests.ConnectTimeout as error:
        tell(type(error).__name__, error)

with requests_mock.Mocker(real_http=True) as mocker:
    mocker.get(MOCKED, [{"text": "mocked"}, {"exc": requests.ConnectTimeout}])
    tell(requests.get(MOCKED).text, requests.get(URL + "/json").json())
    try:
        requests.get(MOCKED)
    except requests.ConnectTimeout as error:
        tell(type(error).__name__, error)
    tell([call.method for call in mocker.request_history])

with tempfile.TemporaryDirectory() as folder:
    for _ in range(2):
        session = requests.Session()
        with betamax.Betamax(session, cassette_library_dir=folder).use_cassette("cassette"):
            tell([session.get(URL + path).status_code for path in ("/json", "/500")])
            with session.get(URL + "/json", stream=True) as response:
                tell(response.status_code)
play()
