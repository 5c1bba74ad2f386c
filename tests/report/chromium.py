"""A real headless Chromium, driven through its DevTools pipe."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSER = shutil.which('chromium') or shutil.which('chromium-browser')


class Page:
    """One tab.

    Attributes:
        events: Everything that the browser told, in order.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._numbers = itertools.count(1)
        self._rest = b''
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        attached = self.send('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network', 'Accessibility'):
            self.send(f'{domain}.enable')

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result."""
        number = next(self._numbers)
        message = dict(id=number, method=method, params=params)
        if self._session:
            message['sessionId'] = self._session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == number:
                assert 'error' not in answer, answer
                return answer['result']
            self.events.append(answer)

    def open(self, path: Path, width: int, height: int = 800, dark: bool = False):
        """Load a file in a window of a size and wait for it."""
        self.send(
            'Emulation.setDeviceMetricsOverride',
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = dict(name='prefers-color-scheme', value='dark' if dark else 'light')
        self.send('Emulation.setEmulatedMedia', features=[scheme])
        self.events.clear()
        self.send('Page.navigate', url=path.resolve().as_uri())
        while not any(e.get('method') == 'Page.loadEventFired' for e in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        """Value of an expression of JavaScript."""
        answer = self.send(
            'Runtime.evaluate', expression=expression, returnByValue=True
        )
        return answer['result'].get('value')

    def press(self, key: str) -> None:
        """Press a key."""
        codes = dict(key=key, code=key, windowsVirtualKeyCode=9 if key == 'Tab' else 13)
        for kind in ('keyDown', 'keyUp'):
            self.send('Input.dispatchKeyEvent', type=kind, **codes)

    def screenshot(self, path: Path, whole: bool = False) -> bytes:
        """Write a picture of the window, or of the whole page."""
        shot = self.send('Page.captureScreenshot', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot['data']))
        return path.read_bytes()

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings of the console, with what the policy blocked."""
        found = []
        for event in self.events:
            if event.get('method') == 'Log.entryAdded':
                found.append(event['params']['entry']['text'])
            elif event.get('method') in (
                'Runtime.exceptionThrown',
                'Runtime.consoleAPICalled',
            ):
                found.append(json.dumps(event['params']))
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, without those inside the page."""
        addresses = [
            event['params']['request']['url']
            for event in self.events
            if event.get('method') == 'Network.requestWillBeSent'
        ]
        return [address for address in addresses if not address.startswith('data:')]

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self._rest:
            part = os.read(self._from, 1 << 16)
            assert part, 'the browser has ended'
            self._rest += part
        message, _, self._rest = self._rest.partition(b'\0')
        return json.loads(message)


@contextlib.contextmanager
def chromium() -> Iterator[Page]:
    """A browser with one tab, for the block."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    def at_three_and_four() -> None:
        first, second = os.dup(to_read), os.dup(from_write)
        os.dup2(first, 3)
        os.dup2(second, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                str(BROWSER), '--headless=new', '--no-sandbox', '--disable-gpu',
                '--remote-debugging-pipe', '--hide-scrollbars', '--no-first-run',
                '--disable-dev-shm-usage', f'--user-data-dir={profile}',
            ],
            preexec_fn=at_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(from_write)
        try:
            yield Page(to_write, from_read)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to_write)
            os.close(from_read)
