"""The documentation site: it builds offline, every internal link resolves, every exported symbol has an entry,
and a reader finds a symbol by search"""
import functools, http.server, importlib.util, json, os, re, shutil, subprocess, sys, threading
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SYMBOL = 'Problem'
CHROMIUM = next((p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None)
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
         '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1', '--virtual-time-budget=8000', '--dump-dom']
# what a reader does: type a name in the search box; the results appear below it
TYPE = '''<script>addEventListener('load', () => { const i = document.querySelector('.smalldocs-search input');
i.focus(); i.value = "%s"; i.dispatchEvent(new Event('input', {bubbles: true})); })</script></body>'''


def load():
    spec = importlib.util.spec_from_file_location('precond_docs', ROOT/'.ci'/'docs.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('docs')/'site'
    r = subprocess.run([sys.executable, str(ROOT/'.ci'/'docs.py'), '--out', str(out)], capture_output=True, text=True,
                       env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert r.returncode==0, f'{r.stdout[-3000:]}\n{r.stderr[-6000:]}'
    return out


@pytest.fixture(scope='session')
def server(site):
    "The site over http on this machine; a page asked for with ?type=NAME gets the script that types it"
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): pass
        def do_GET(self):
            path,_,query = self.path.partition('?')
            if not query.startswith('type='): return super().do_GET()
            body = (site/path.lstrip('/')).read_text().replace('</body>', TYPE % query.removeprefix('type=')).encode()
            self.send_response(200)
            self.send_header('Content-Type', 'text/html; charset=utf-8')
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{httpd.server_address[1]}'
    httpd.shutdown()


@pytest.fixture
def browse(server, tmp_path):
    if CHROMIUM is None: pytest.skip('no chromium on this machine: the site was built and its links checked, the browser test did not run')
    def get(path):
        r = subprocess.run([CHROMIUM, *FLAGS, f'--user-data-dir={tmp_path}/profile', f'{server}/{path}'],
                           capture_output=True, text=True, timeout=120)
        assert r.returncode==0 and '<body' in r.stdout, r.stderr[-2000:]
        return r.stdout
    return get


def test_sidebar_lists_every_notebook(): # before the build below, which writes it
    assert (ROOT/'nbs'/'sidebar.yml').read_text()==load().sidebar(), 'run: python .ci/docs.py --sidebar'


def test_site_has_no_broken_link(site): assert load().check(site)==[]


def test_every_notebook_has_a_page(site):
    assert len(list(site.rglob('*.html')))==len(load().notebooks())


def test_mathematics_needs_no_script(site):
    text = (site/'core.html').read_text()
    assert '<math' in text and 'katex' not in text.lower() and '\\(' not in re.sub(r'<(script|pre|code)\b.*?</\1>', '', text, flags=re.S)


def test_the_check_can_fail(site, tmp_path):
    docs = load()
    bad = tmp_path/'bad'
    shutil.copytree(site, bad)
    page = bad/'index.html'
    page.write_text(page.read_text().replace('</body>', '<a href="nowhere.html">a</a><a href="core.html#no-such">b</a>'
                                             '<a href="../../x.html">c</a><img src="https://example.com/x.png"></body>'))
    said = '\n'.join(docs.check(bad))
    for what in ('nowhere.html is missing', 'core.html#no-such has no such anchor', 'leaves the site', 'from the network'):
        assert what in said
    core = bad/'core.html'
    core.write_text(core.read_text().replace('"problem"', '"gone"'))
    assert 'precond.core.Problem: no entry core.html#problem' in '\n'.join(docs.check(bad))


def test_symbol_links_are_relative(site):
    assert not [p.name for p in site.rglob('*.html') if 'href="'+load().base_url() in p.read_text()]


def test_search_finds_a_symbol(site, browse):
    dom = browse(f'index.html?type={SYMBOL}')
    hits = [unescape(h) for h in re.findall(r'class="search-result"[^>]*href="([^"]+)"|href="([^"]+)"[^>]*class="search-result"', dom) for h in h if h]
    assert hits, 'the search showed no result'
    assert any(h.endswith('core.html#problem') for h in hits), hits
    there = browse('core.html')                        # and the page it leads to shows the symbol and its mathematics
    assert re.search(r'id="problem"|data-anchor-id="problem"', there) and '<math' in there
    none = browse('index.html?type=zzqqxxyyww')
    assert 'No results' in none


def test_search_index_reaches_every_room(site):
    entries = {e['href'].split('#')[0] for e in json.loads((site/'search.json').read_text())}
    pages = {page for page,_ in load().symbols().values()}
    assert pages and pages<=entries
