"""Downloads, from a real server on this machine."""

import functools
import hashlib
import http.server
import threading

import pytest
import torch

from mmkd.compat.checkpoint import fetch

CONTENTS = b'weights' * 400_000  # several chunks
SHA = hashlib.sha256(CONTENTS).hexdigest()


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def end_headers(self):
        super().end_headers()
        if 'broken' in self.path:
            self.wfile.write(b'we')
            self.wfile = open('/dev/null', 'wb')  # noqa: SIM115


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / 'zoo'
    folder.mkdir()
    for name in ('plain.pth', f'a-{SHA[:8]}.pth', 'a-0badc0de.pth', 'broken.pth'):
        (folder / name).write_bytes(CONTENTS)
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()


@pytest.fixture
def hub(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / 'hub'))
    yield tmp_path / 'hub' / 'checkpoints'
    torch.hub.set_dir(before)


@pytest.mark.parametrize('name', ['plain.pth', f'a-{SHA[:8]}.pth'])
def test_a_file_is_fetched_once_where_torch_hub_keeps_it(server, hub, name, capsys):
    path = fetch(f'{server}/{name}?raw=true')
    assert path == hub / name
    assert path.read_bytes() == CONTENTS
    assert f'Downloading {server}/{name}' in capsys.readouterr().err
    path.write_bytes(b'kept')
    assert fetch(f'{server}/{name}').read_bytes() == b'kept'
    assert [file.name for file in hub.iterdir()] == [name]


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('a-0badc0de.pth', f'its sha256 is {SHA}, not 0badc0de'),
        ('absent.pth', 'HTTP Error 404'),
        ('broken.pth', 'only 2 of 2800000 bytes arrived'),
    ],
)
def test_a_failed_download_leaves_nothing(server, hub, name, reason):
    with pytest.raises(ConnectionError, match=reason) as error:
        fetch(f'{server}/{name}')
    assert f'{server}/{name} could not be downloaded' in str(error.value)
    assert f'put it at {hub / name}' in str(error.value)
    assert list(hub.iterdir()) == []


def test_offline_names_url_and_path_and_uses_a_file_put_there(tmp_path):
    url = 'http://127.0.0.1:1/zoo/x.pth'
    with pytest.raises(ConnectionError, match=r'127\.0\.0\.1:1/zoo/x\.pth could not'):
        fetch(url, tmp_path)
    (tmp_path / 'x.pth').write_bytes(b'by hand')
    assert fetch(url, tmp_path).read_bytes() == b'by hand'


def test_not_a_url(tmp_path):
    with pytest.raises(ConnectionError, match='zoo/x.pth could not be downloaded'):
        fetch('zoo/x.pth', tmp_path)
