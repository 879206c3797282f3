"""Build the documentation site into _docs from the notebooks and _quarto.yml, offline and without Quarto.

    python .ci/docs.py                # build, then check every internal link, anchor and exported symbol
    python .ci/docs.py --out DIR      # the same into another folder
    python .ci/docs.py --check [DIR]  # check a site that is already built
    python .ci/docs.py --sidebar      # only write nbs/sidebar.yml and nbs/nbdev.yml, which _quarto.yml reads

nbdev processes the notebooks (show_doc, symbol links), smalldocs lays them out, and this file does what those two
leave: pages under the names that nbdev links to, symbol links relative to the page, mathematics as MathML (no script,
no network), and a check that fails the build. To read the site with its search: `make docs-serve`."""
import argparse, ast, functools, html, json, os, posixpath, re, shutil, sys, tempfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import yaml

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
# sidebar: rooms by the number that their notebooks begin with, then the narrated notebooks by folder
ROOMS = [('Core and theory', 0, 9), ('Data and models', 10, 19), ('Curvature', 20, 29), ('Figures', 30, 39),
         ('Optimizers', 40, 49), ('Training', 50, 59), ('Lenses', 60, 79), ('Sweeps', 80, 84), ('Recipes', 85, 89),
         ('The study', 90, 99)]
FOLDERS = [('Tutorials', 'tutorials'), ('Experiments', 'experiments'), ('Benchmarks', 'benchmarks')]


# ---------------------------------------------------------------- navigation

def notebooks():
    "Every notebook of the site, relative to nbs/, in order"
    found = (p.relative_to(NBS) for p in NBS.rglob('*.ipynb'))
    return sorted(p for p in found if not any(s[0] in '._' for s in p.parts))


def sidebar():
    "The text of nbs/sidebar.yml: every notebook in exactly one group"
    nbs = notebooks()
    top = {p: int(m[1]) for p in nbs if len(p.parts)==1 and (m := re.match(r'(\d+)', p.name))}
    groups = [(t, [p for p in nbs if len(p.parts)>1 and p.parts[0]==d]) for t,d in FOLDERS[:2]]
    groups += [(t, [p for p,n in top.items() if lo<=n<=hi]) for t,lo,hi in ROOMS]
    groups += [(t, [p for p in nbs if len(p.parts)>1 and p.parts[0]==d]) for t,d in FOLDERS[2:]]
    placed = {p for _,ps in groups for p in ps}
    rest = [p for p in nbs if p not in placed and p.name!='index.ipynb']
    contents = [str(p) for p in nbs if str(p)=='index.ipynb']
    contents += [dict(section=t, contents=[p.as_posix() for p in ps]) for t,ps in [*groups, ('About', rest)] if ps]
    return ('# Written by .ci/docs.py --sidebar\n'
            + yaml.safe_dump({'website': {'sidebar': {'contents': contents}}}, sort_keys=False))


def write_sidebar():
    "Write nbs/sidebar.yml from the notebooks, and nbs/nbdev.yml from settings.ini"
    from nbdev.config import get_config
    from nbdev.quarto import refresh_quarto_yml
    get_config(path=ROOT)
    refresh_quarto_yml()
    path, text = NBS/'sidebar.yml', sidebar()
    if not path.exists() or path.read_text()!=text: path.write_text(text)


# ---------------------------------------------------------------- build

class Math:
    "TeX to MathML, remembering what could not be read"
    def __init__(self): self.bad, self.n = [], 0

    def __call__(self, tex, opts):
        from latex2mathml.converter import convert
        tex = re.sub(r'\\(?:label|tag)\{[^}]*\}', '', tex)
        tex = re.sub(r'\\(begin|end)\{(?:equation|displaymath)\*?\}', '', tex)
        self.n += 1
        try: out = convert(tex, display='block' if opts.get('display_mode') else 'inline')
        except Exception as e: # the converter has many kinds of error: each is a formula to mend, and fails the build
            self.bad.append(f'{tex!r}: {type(e).__name__} {e}')
            return html.escape(tex)
        left = re.search(r'>[^<]*(\\[A-Za-z]+)[^<]*<', out)
        if left: self.bad.append(f'{tex!r}: {left[1]} is not known')
        return out


def site_class():
    "smalldocs' Site, with pages under the names that nbdev links to and no call for KaTeX"
    from smalldocs.site import Site

    class NbSite(Site):
        def read(self, src):
            page = super().read(src)
            name = page.front.get('output-file')
            if name: page.out = page.out.with_name(str(name))
            return page

        def render_page(self, page):
            super().render_page(page)
            page.env['math'] = False    # MathML needs no script

    return NbSite


def process():
    "Let nbdev process the notebooks into _proc, and give that folder"
    from importlib.metadata import entry_points
    from nbdev.serve import proc_nbs
    if not any(o.name=='precond' for o in entry_points(group='nbdev')):
        raise SystemExit("docs: precond must be installed here, so that symbols become links: pip install -e '.[dev]'")
    write_sidebar()
    shutil.rmtree(ROOT/'_proc', ignore_errors=True)
    # tests/test_notebooks.py looks for such cells where they would do harm
    os.environ['PYTHONWARNINGS'] = 'ignore:Found cells containing imports and other code:UserWarning'
    return proc_nbs(str(NBS), force=True)


SHOW = re.compile(r'^show_doc\(\s*([\w.]+)', re.M)
HEAD = re.compile(r'^(#{1,6}) +([^\n{]+?) *$', re.M)
FENCE = re.compile(r'^```.*?^```', re.M|re.S)


def slug(title): return re.sub(r'[^\w.-]+', '-', title.strip().lower()).strip('-')


def mend(path):
    """Mend a processed notebook: a documented symbol gets the heading, the anchor that nbdev's links use and a class,
    a section of the same name makes room for it, and links that nbdev put inside a signature become text again"""
    nb = json.loads(path.read_text(encoding='utf-8'))
    seen = set()
    for c in nb['cells']:
        name = SHOW.search(''.join(c['source']))
        if c['cell_type']!='code' or not name: continue
        for o in c.get('outputs', []):
            if 'text/markdown' not in o.get('data', {}): continue
            text = FENCE.sub(lambda m: re.sub(r'\[(`[^`]+`)\]\([^)\s]*\)', r'\1', m[0]), ''.join(o['data']['text/markdown']))
            attrs = '' if name[1].lower() in seen else f' {{#{name[1].lower()} .symbol}}'
            o['data']['text/markdown'] = HEAD.sub(lambda m, n=name[1], a=attrs: f'{m[1]} {n}{a}', text, count=1)
            seen.add(name[1].lower())
    for c in nb['cells']:
        if c['cell_type']!='markdown': continue
        src = ''.join(c['source'])
        c['source'] = HEAD.sub(lambda m: m[0]+f' {{#about-{slug(m[2])}}}' if slug(m[2]) in seen else m[0], src)
    path.write_text(json.dumps(nb, ensure_ascii=False, indent=1), encoding='utf-8')


def build(out):
    "Build the site into `out`; the problems found on the way"
    import smalldocs.markdown
    from smalldocs.config import load
    math = Math()
    cache = Path(process())
    missing = [str(p) for p in notebooks() if not (cache/p).exists()]
    if missing: return [f'nbdev could not process {m} (its error is above)' for m in missing]
    for p in notebooks(): mend(cache/p)
    smalldocs.markdown.math_renderer = math
    site = site_class()(load(cache), quiet=True)
    with tempfile.TemporaryDirectory(prefix='precond-docs-') as tmp:
        site.out = Path(tmp)/'_docs'
        site.build()
        for f in ('fuse', 'bootstrap', 'bootstrap-icons'): copy_licence(f, site.out)
        relative_links(site.out, base_url())
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(site.out, out)
    print(f'docs: {len(site.pages)} pages, {math.n} formulas', flush=True)
    return [f'formula {b}' for b in math.bad]


def copy_licence(name, out):
    "The licence of a bundled script goes where the script goes"
    import smalldocs.site
    src = smalldocs.site.ASSETS/'vendor'/name/'LICENSE'
    if src.exists(): shutil.copy(src, out/'site_libs'/name/'LICENSE')


def base_url():
    "Where nbdev believes the site to be"
    from nbdev.config import get_config
    cfg = get_config(path=ROOT)
    return f"{cfg.doc_host.rstrip('/')}/{cfg.doc_baseurl.strip('/')}/"


def relative_links(site, base):
    """Turn nbdev's absolute symbol links into relative ones. A method without an entry leads to its class, a private
    function to its page; that public ones have an entry is for `check` to see"""
    pages = {p.relative_to(site).as_posix(): p for p in site.rglob('*.html')}
    ids = {n: parse(p).ids for n,p in pages.items()}

    def link(m, here):
        to, frag = urldefrag(html.unescape(m[1]))
        to = to or 'index.html'
        while frag and frag not in ids.get(to, {frag}): frag = frag.rpartition('.')[0]
        return f'href="{posixpath.relpath(to, posixpath.dirname(here) or ".")}{"#" if frag else ""}{frag}"'

    for n,p in pages.items():
        text = p.read_text(encoding='utf-8')
        new = re.sub(rf'href="{re.escape(base)}([^"]*)"', lambda m, n=n: link(m, n), text)
        if new!=text: p.write_text(new, encoding='utf-8')


# ---------------------------------------------------------------- check

class Page(HTMLParser):
    "The ids, links and loaded resources of a page"
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.ids, self.entries, self.links, self.loads = set(), set(), [], []

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if a.get('id'): self.ids.add(a['id'])
        if tag=='a' and a.get('name'): self.ids.add(a['name'])
        if 'symbol' in (a.get('class') or '').split(): self.entries |= {a.get('id'), a.get('data-anchor-id')}
        if tag in ('a', 'area') and a.get('href'): self.links.append(a['href'])
        if tag=='link' and a.get('href') and a.get('rel') not in ('canonical', 'alternate', 'prev', 'next'): self.loads.append(a['href'])
        if a.get('src') and tag in ('script', 'img', 'iframe', 'source', 'video', 'audio', 'embed'): self.loads.append(a['src'])


def parse(path):
    "A parsed page"
    p = Page()
    p.feed(path.read_text(encoding='utf-8'))
    return p


def external(url): return re.match(r'(?:[a-zA-Z][a-zA-Z0-9+.-]*:|//)', url)


def check(site, modidx=None):
    "Everything wrong with a built site: links, anchors, what it would load from elsewhere, symbols without an entry"
    site = Path(site).resolve()
    pages = {p: parse(p) for p in sorted(site.rglob('*.html'))}
    if not pages: return [f'{site.name}: no page']
    problems = []

    def target(here, url):
        path, frag = urldefrag(url)
        path = unquote(path.split('?')[0])
        to = (site/path.lstrip('/') if path.startswith('/') else here.parent/path).resolve() if path else here
        return (to/'index.html' if to.is_dir() else to), unquote(frag)

    def follow(here, url):
        to, frag = target(here, url)
        where = here.relative_to(site)
        if site!=to and site not in to.parents: problems.append(f'{where}: {url} leaves the site')
        elif not to.exists(): problems.append(f'{where}: {url} is missing')
        elif frag and to in pages and frag not in pages[to].ids: problems.append(f'{where}: {url} has no such anchor')

    for here,page in pages.items():
        for url in page.links:
            if not external(url): follow(here, url)
        for url in page.loads:
            if re.match(r'(?:https?:)?//', url): problems.append(f'{here.relative_to(site)}: loads {url} from the network')
            elif not external(url): follow(here, url)
    for css in sorted(site.rglob('*.css')):
        for url in re.findall(r'url\(\s*["\']?([^"\')]+)', css.read_text(encoding='utf-8')):
            if re.match(r'(?:https?:)?//', url): problems.append(f'{css.relative_to(site)}: loads {url} from the network')
            elif not external(url) and not url.startswith('#'): follow(css, url)
    index = site/'search.json'
    if not index.exists(): problems.append('search.json is missing')
    else:
        entries = json.loads(index.read_text(encoding='utf-8'))
        if not entries: problems.append('search.json is empty')
        for e in entries: follow(site/'index.html', e['href'])
    for sym,(page,frag) in symbols(modidx).items():
        if site/page not in pages: problems.append(f'{sym}: no page {page}')
        elif frag not in pages[site/page].entries: problems.append(f'{sym}: no entry {page}#{frag}')
    return sorted(set(problems))


@functools.cache
def public(module):
    "The names in a module's __all__; None when there is no such file. A cell with `exporti` keeps its names out of it"
    if not (ROOT/module).exists(): return None
    found = [n.value for n in ast.parse((ROOT/module).read_text()).body if isinstance(n, ast.Assign) and getattr(n.targets[0], 'id', '')=='__all__']
    return set(ast.literal_eval(found[0])) if found else set()


def symbols(modidx=None):
    "Every exported symbol, from precond/_modidx.py: name -> (page, anchor). Methods live under their class"
    text = Path(modidx or ROOT/'precond'/'_modidx.py').read_text()
    d = ast.literal_eval(text[text.index('{'):])
    found = {}
    for mod,syms in d['syms'].items():
        for name,(link,module) in syms.items():
            short, listed = name.removeprefix(mod+'.'), public(module)
            if '.' in short or short.startswith('_') or (listed is not None and short not in listed): continue
            page,_,frag = link.partition('#')
            found[name] = page,frag
    return found


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--out', type=Path, default=ROOT/'_docs', help='folder for the site')
    ap.add_argument('--check', nargs='?', type=Path, const=ROOT/'_docs', help='only check a built site')
    ap.add_argument('--sidebar', action='store_true', help='only write nbs/sidebar.yml and nbs/nbdev.yml')
    args = ap.parse_args(argv)
    if args.sidebar: return write_sidebar()
    problems = [] if args.check else build(args.out.resolve())
    problems += check(args.check or args.out)
    for p in problems: print(f'docs: {p}', file=sys.stderr)
    if problems: raise SystemExit(f'docs: {len(problems)} problem(s)')
    print(f'docs: every internal link resolves and {len(symbols())} exported symbols have an entry')
    if not args.check: print(f'docs: open {args.out}/index.html, or with search: make docs-serve')


if __name__ == '__main__': main()
