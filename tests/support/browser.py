"""A headless Chromium or Chrome, driven by the WebDriver protocol (W3C) that its chromedriver speaks."""

import json
import re
import shutil
import subprocess
import urllib.request

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 90  # a page may take to show what it should
# the visible text of a page, of its shadow roots and its frames too, once it has all the words or the time is over
TEXT = """
const [words, seconds, done] = arguments, end = Date.now() + 1000 * seconds;
const text = node => {
  if (node.nodeType === 3) return node.textContent + ' ';
  if (node.nodeType !== 1 && node.nodeType !== 11 || /^(style|script|template)$/i.test(node.nodeName)) return '';
  if (node.nodeName === 'IFRAME') return node.contentDocument?.body ? text(node.contentDocument.body) : '';
  if (node.nodeType === 1 && node.nodeName !== 'SLOT' && getComputedStyle(node).display === 'none') return '';
  return [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes].map(text).join('');
};
const look = () => {
  const found = text(document.body).replace(/\\s+/g, ' ');
  if (words.every(word => found.includes(word)) || Date.now() > end) done(found); else setTimeout(look, 300);
};
look();
"""


def missing() -> str:
    """What is not installed, or nothing."""
    if not any(map(shutil.which, BROWSERS)):
        return f"no browser: one of {', '.join(BROWSERS)}"
    return "" if shutil.which("chromedriver") else "no chromedriver (Debian: apt-get install chromium-driver)"


class Browser:
    """One window of 1500 x 1000 pixels."""

    def __init__(self):
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        found = (re.search(r"successfully on port (\d+)", line) for line in self.driver.stdout)
        self.place = f"http://127.0.0.1:{next(port[1] for port in found if port)}/session"
        options = {
            "binary": next(filter(None, map(shutil.which, BROWSERS))),
            "args": ["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,1000"],
        }
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "timeouts": {"script": 1000 * 2 * SECONDS}}
        session = self._post("", capabilities={"alwaysMatch": wanted})
        self.place += f"/{session['sessionId']}"

    def _post(self, path: str, **content):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.place + path, json.dumps(content).encode(), headers)
        with urllib.request.urlopen(request, timeout=3 * SECONDS) as answer:
            return json.load(answer)["value"]

    def run(self, script: str, *arguments):
        """What a page's JavaScript returns."""
        return self._post("/execute/sync", script=script, args=arguments)

    def text(self, address: str, *words: str) -> str:
        """The visible text of a page, when it has all the words; or what it has after SECONDS."""
        self._post("/url", url="about:blank")  # another fragment alone would load nothing
        self._post("/url", url=address)
        return self._post("/execute/async", script=TEXT, args=[words, SECONDS])

    def close(self) -> None:
        with urllib.request.urlopen(urllib.request.Request(self.place, method="DELETE"), timeout=SECONDS):
            self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()
