"""Write README.md from nbs/index.ipynb, without Quarto.

    python .ci/readme.py            # write README.md (and the pictures that index.ipynb's cells show)
    python .ci/readme.py --check    # only say whether they are up to date

Markdown cells go in as they are; code cells in fences, with their text output; a stored picture is written to
nbs/images/readme_N.png. Relative links, written in the notebook as seen from nbs/, are rewritten as seen from the top.
Honoured: `#| hide`, `#| include: false`, `#| echo: false`, `#| output: false`, and a trailing `#| hide_line`."""
import argparse, base64, json, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INDEX, README, IMAGES = ROOT/'nbs'/'index.ipynb', ROOT/'README.md', ROOT/'nbs'/'images'
NOTE = '<!-- Written by .ci/readme.py from nbs/index.ipynb: edit that. -->\n\n'
DIRECTIVE = re.compile(r'^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$')
ANSI = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')


def joined(s): return s if isinstance(s, str) else ''.join(s)


def from_top(url):
    "A link written in nbs/index.ipynb, as seen from the top of the repository"
    if re.match(r'(?:[a-zA-Z][\w+.-]*:|//|#|/)', url): return url
    return posixpath.normpath(posixpath.join('nbs', url))


def relink(md):
    "Rewrite the relative links and pictures of a markdown cell, leaving code alone"
    def line(s):
        s = re.sub(r'(!?\[[^\]]*\]\()([^)\s]+)', lambda m: m[1]+from_top(m[2]), s)
        return re.sub(r'(<(?:img|a)\b[^>]*?\b(?:src|href)=")([^"]+)', lambda m: m[1]+from_top(m[2]), s)
    out, fence = [], False
    for s in md.split('\n'):
        if s.lstrip().startswith('```'): fence = not fence
        out.append(s if fence else line(s))
    return '\n'.join(out)


def shown(outputs, pictures):
    "The outputs of a code cell as markdown; pictures are collected"
    parts = []
    for o in outputs:
        data = o.get('data', {})
        if 'image/png' in data:
            pictures.append(base64.b64decode(joined(data['image/png'])))
            parts.append(f'![](nbs/images/readme_{len(pictures)}.png)')
        elif 'text/markdown' in data: parts.append(relink(joined(data['text/markdown'])).strip())
        else:
            text = ANSI.sub('', joined(o.get('text') or data.get('text/plain') or '')).rstrip()
            if text: parts.append(f'```text\n{text}\n```')
    return parts


def render(nb):
    "README's text and its pictures, from the notebook"
    parts, pictures = [], []
    for c in nb['cells']:
        src = joined(c['source']).strip()
        if not src: continue
        if c['cell_type']=='markdown': parts.append(relink(src))
        if c['cell_type']!='code': continue
        lines = src.split('\n')
        flags = {m[1]: m[2] for s in lines if (m := DIRECTIVE.match(s))}
        if flags.keys() & {'hide', 'export', 'default_exp'} or flags.get('include')=='false': continue
        code = '\n'.join(s for s in lines if not DIRECTIVE.match(s) and not re.search(r'#\s*\|\s*hide_line\s*$', s)).strip()
        if code and flags.get('echo')!='false': parts.append(f'```python\n{code}\n```')
        if flags.get('output')!='false': parts += shown(c.get('outputs', []), pictures)
    return NOTE + '\n\n'.join(parts) + '\n', pictures


def stale(text, pictures):
    "What on disk differs from what the notebook gives"
    want = {README: text.encode(), **{IMAGES/f'readme_{i}.png': p for i,p in enumerate(pictures, 1)}}
    extra = {p for p in IMAGES.glob('readme_*.png')} - want.keys()
    return [p for p,b in want.items() if not p.exists() or p.read_bytes()!=b], sorted(extra), want


def broken(text):
    "Relative links of README.md that lead nowhere"
    urls = re.findall(r'!?\[[^\]]*\]\(([^)\s]+)', text) + re.findall(r'<(?:img|a)\b[^>]*?\b(?:src|href)="([^"]+)', text)
    return [u for u in urls if not re.match(r'(?:[a-zA-Z][\w+.-]*:|//|#)', u) and not (ROOT/u.split('#')[0]).exists()]


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--check', action='store_true', help='write nothing; fail when something is out of date')
    args = ap.parse_args(argv)
    text, pictures = render(json.loads(INDEX.read_text(encoding='utf-8')))
    old, extra, want = stale(text, pictures)
    if not args.check:
        if pictures: IMAGES.mkdir(exist_ok=True)
        for p in old: p.write_bytes(want[p])
        for p in extra: p.unlink()
    problems = [f'{p.relative_to(ROOT)} is out of date: run python .ci/readme.py' for p in old+extra] if args.check else []
    problems += [f'README.md links to {u}, which is not there' for u in broken(text)]
    for p in problems: print(p, file=sys.stderr)
    return 1 if problems else 0


if __name__ == '__main__': sys.exit(main())
