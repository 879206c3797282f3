"""The command as a user meets it: whole processes, their exit status, their files, and being killed."""
import json, os, re, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest

TINY = ['--optimizers', 'sgd,kfac', '--lenses', 'spectrum,llc', '--preset', 'quick', '--seeds', '1', '--n-train', '200', '--n-test', '100',
        '--sizes', 'samples', '50', 'ntk_samples', '20', 'llc_draws', '20', 'llc_burn_in', '5', 'llc_batch', '50', 'iters', '10']


def precond(*args, cwd=None, **kwargs):
    return subprocess.run([sys.executable, '-m', 'precond.cli', *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=300, **kwargs)


def numbers(out):
    "Every stored value and array of a study, without times and dates"
    d = json.loads((Path(out)/'study.json').read_text())
    cells = {p.name:{k:v for k,v in json.loads(p.read_text()).items() if k!='provenance'} for p in (Path(out)/'cells').glob('*.json')}
    arrays = {p.name:{k:v.tobytes() for k,v in np.load(p).items()} for p in (Path(out)/'cells').glob('*.npz')}
    return d['rows'], cells, arrays


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A study that nobody interrupted"
    out = tmp_path_factory.mktemp('whole')/'study'
    r = precond('study', *TINY, '--out', out)
    assert r.returncode==0, r.stderr
    return out, r.stdout


def test_study_writes_its_report(whole):
    out, text = whole
    assert re.search(r'^test loss .*\d', text, re.M) and 'report:' in text
    page = (out/'report.html').read_text()
    assert page.count('data:image/png;base64,')>=3 and not re.search(r'(?:src|href)="https?:', page)
    assert {p.suffix for p in (out/'figures').iterdir()}=={'.png', '.pdf'}
    d = json.loads((out/'study.json').read_text())
    assert len(d['training'])==2 and len(d['lenses'])==4 and d['provenance']['versions']['torch']
    assert 'bundled' in str(d['provenance']['data'])


def test_second_run_repeats_nothing(whole):
    out, _ = whole
    before = {p:p.stat().st_mtime_ns for p in (out/'cells').iterdir()}
    assert precond('study', *TINY, '--out', out).returncode==0
    assert before=={p:p.stat().st_mtime_ns for p in (out/'cells').iterdir()}


def test_killed_study_goes_on_with_the_same_numbers(whole, tmp_path):
    out = tmp_path/'study'
    p = subprocess.Popen([sys.executable, '-m', 'precond.cli', 'study', *TINY, '--out', str(out)], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time()+120
    while len(list((out/'cells').glob('*.json')))<5 and p.poll() is None and time.time()<deadline: time.sleep(.02)
    os.kill(p.pid, signal.SIGKILL)                               # the parent only: its workers must stop by themselves
    p.wait()
    time.sleep(1.5)
    kept = {f:f.stat().st_mtime_ns for f in (out/'cells').glob('*.json')}
    assert kept and not (out/'report.html').exists()
    time.sleep(1)
    assert len(list((out/'cells').glob('*.json')))==len(kept), 'orphaned workers go on'
    r = precond('study', *TINY, '--out', out)
    assert r.returncode==0, r.stderr
    assert all(f.stat().st_mtime_ns==t for f,t in kept.items()), 'a finished cell was done again'
    assert numbers(out)==numbers(whole[0])


def corrupt(folder):
    folder.mkdir(); (folder/'mnist.npz').write_bytes(b'PK\x03\x04 not really an archive'); return folder


@pytest.mark.parametrize('args, wanted', [
    (['data', '--name', 'mnits'], 'mnits'),
    (['study', '--data', 'mnits'], '--data'),
    (['study', '--optimizers', 'sdg'], "received 'sdg'"),
    (['study', '--optimizers', 'sgd', '--lr', 'sgd=-1'], '-1'),
    (['study', '--optimizers', 'sgd', '--preset', 'quick', '--loss', 'hinge'], 'hinge'),
    (['study', '--lenses', 'llcc'], "received 'llcc'"),
    (['study', '--seeds', '0'], 'seeds'),
    (['study', '--preset', 'slow'], '--preset'),
    (['frobnicate'], 'frobnicate')])
def test_refused_in_one_line(args, wanted, tmp_path):
    r = precond(*args, cwd=tmp_path)
    assert r.returncode==2 and wanted in r.stderr and len(r.stderr.strip().splitlines())==1, r.stderr
    assert 'Traceback' not in r.stderr and not r.stdout


def test_corrupt_archive_is_named(tmp_path):
    r = precond('data', '--name', 'mnist', '--root', corrupt(tmp_path/'archives'))
    assert r.returncode==2 and 'mnist.npz' in r.stderr and len(r.stderr.strip().splitlines())==1, r.stderr


def test_unwritable_folder(tmp_path):
    (tmp_path/'file').write_text('')
    r = precond('study', *TINY, '--out', tmp_path/'file'/'study')
    assert r.returncode==2 and 'folder' in r.stderr and len(r.stderr.strip().splitlines())==1, r.stderr


@pytest.mark.parametrize('name', ['study', 'llc', 'risk', 'data', 'sweep'])
def test_help_teaches(name):
    r = precond(name, '--help')
    assert r.returncode==0 and all(k in r.stdout for k in ('--out', '--help')), r.stdout


def test_sweep(tmp_path):
    args = ['sweep', '--out', tmp_path/'s', 'risk', '--a', '0:1:lin3', '--reps', '2', '--n', '20']
    r = precond(*args)
    assert r.returncode==0 and '3 done' in r.stdout, r.stderr
    before = {p:p.stat().st_mtime_ns for p in (tmp_path/'s'/'runs').iterdir()}
    assert precond(*args).returncode==0 and before=={p:p.stat().st_mtime_ns for p in (tmp_path/'s'/'runs').iterdir()}


def test_sweep_takes_its_options_on_either_side_and_tells_what_failed(tmp_path):
    r = precond('sweep', 'risk', '--out', tmp_path/'s', '--a', '0', '1', '--reps', '0', '1')        # one simulated data set has no standard error
    assert r.returncode==1 and '2 done, 2 failed' in r.stdout and (tmp_path/'s'/'sweep.json').exists(), r.stderr
    assert r.stderr.strip()=='precond sweep: 2 failed: ValueError: risk reps: must be 0 or >= 2, received 1'


AWCH = '--dataset digits --train_size 10 --test_size 50 --max_e 1 --net_size 4 --B 20 --n_class 3 --runs 1'.split()


@pytest.mark.parametrize('name, more', [('c-matrices', ['--workers', '1']), ('h-g', ['--holder_size', '2'])])
def test_c_matrices_and_h_g_write_to_their_folder_and_in_a_sweep_below_its_own(name, more, tmp_path):
    r = precond('sweep', '--out', 's', name, *AWCH, *more, '--alpha', '.1', '.2', cwd=tmp_path)
    assert r.returncode==0 and '2 done' in r.stdout and [f.name for f in tmp_path.iterdir()]==['s'], (r.stderr, list(tmp_path.iterdir()))
    r = precond(name, *AWCH, *more, cwd=tmp_path)
    assert r.returncode==0 and sorted(f.name for f in tmp_path.iterdir())==['AWCH_data', 's'], r.stderr
    folder, = (tmp_path/'AWCH_data').iterdir()
    files = dict([('c-matrices', ['C_epoch_1_run_0.pt', 'power_law_epoch_1.pdf', 'power_law_epoch_1.png', 'summary_epoch_1.csv', 'summary_epoch_1.json']),
                  ('h-g', ['h_g_tensors_holder_epoch_1.pt'])])
    assert sorted(f.name for f in folder.iterdir())==files[name]
    if name=='c-matrices': assert json.loads((folder/'summary_epoch_1.json').read_text())['provenance']['versions']['torch']


RECIPES = dict(                                                  # a run of seconds, and the files it must leave
    transfer=(['--p', '-1', '1', '--epochs', '3', '--dh', '8', '--n', '200', '--seeds', '1', '--workers', '1'],
              [f'transfer_learning_cov_p_{p}/{f}' for p in ('-1.0', '1.0') for f in ('config.json', 'tr1.npy', 'te1.npy', 'tr2.npy', 'te2.npy')]),
    ood=(['--data', 'mnist5k', '--optimizers', 'vanilla_sgd', '--epochs', '2', '--fraction', '.01', '--hidden', '4', '--n-test', '50', '--seeds', '1', '--workers', '1'],
         ['config.json', 'results.csv', 'curves.npz', 'ood.png']),
    benchmark=(['--num_layers', '3', '--width', '4', '--num-plot-points', '2', '--max-iter', '3'],
               ['params.json', 'test_errors.csv', 'mean_test_errors.csv', 'test_errors.npz', 'plot.pdf', 'model_logs/ngd_sigma2=10_run=1.npz']),
    rfreg=(['--n', '12', '--num-gammas', '2', '--n-extra', '60', '--reps', '2'], ['params.json', 'curve.csv', 'plot.pdf']),
    risk=(['--n', '12', '--num-gammas', '2', '--reps', '2'], ['params.json', 'curve.csv', 'plot.pdf']))
RECIPES['singular'] = (['--dims', '10', '--ranks', '3', '--quartic', '', '--deep', '1', '--deep-width', '4', '--deep-depth', '2', '--deep-draws', '60', '--draws', '60', '--burn-in', '30'],
                       ['params.json', 'singular.csv', 'singular.png', 'singular.html'])
RECIPES['kfac-extra-variance'] = ['--width', '4', '--max-iter', '3', '--sigma2-max', '1'], ['params.json', 'results.csv', 'means.csv', 'plot.pdf']


@pytest.mark.parametrize('name', RECIPES)
def test_recipe_writes_its_files(name, tmp_path):
    args, files = RECIPES[name]
    r = precond(name, *args, '--out', tmp_path/'o')
    assert r.returncode==0 and 'written' in r.stdout, r.stderr
    assert not [f for f in files if not (tmp_path/'o'/f).exists()]
    about = [json.loads(f.read_text()) for f in (tmp_path/'o').glob('*.json')]
    assert any(d.get('provenance', {}).get('versions', {}).get('torch') for d in about)


def test_every_option_of_every_command_is_explained():
    code = 'import sys; from precond import cli; sys.exit(max(cli.main([k, "--help"]) for k in cli.COMMANDS))'
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    options = [' '.join(re.sub('[│╭╰─╮╯]', ' ', b).split()) for b in re.split(r'^│ (?=--)', r.stdout, flags=re.M)]
    options = [o for o in options if o.startswith('--')]
    assert r.returncode==0 and len(options)>150
    shape = r'(?: (?:\{[^}]*\}(?:\|[A-Z]+)?|[A-Z. |\[\]]+))*'             # INT, {high,low}, {None}|FLOAT, [FLOAT [FLOAT ...]]
    bare = [o for o in options if re.match(rf'--[a-z0-9-]+(?:, --no-[a-z0-9-]+)?{shape}\s*\(default', o)]
    assert not bare, bare


REFUSED = [
    (['generalization', '--p', '1', '1'], 'different ones'),
    (['transfer', '--lam', '0'], 'lam: must be > 0'),
    (['ood', '--data', 'mnist', '--root', 'nothing-here', '--optimizers', 'sdg'], 'sdg'),
    (['benchmark', '--optimizers', 'gd,kfac', '--damping', '0'], 'damping must be > 0'),
    (['benchmark', '--num-runs', '0'], 'num_runs'),
    (['kfac-extra-variance', '--sigma2-step', '0'], 'sigma2_step'),
    (['risk', '--gamma', 'inf'], 'gamma: must be finite'),
    (['rfreg', '--gamma-2', '0'], 'gamma_2'),
    (['c-matrices', '--net_size', '20000'], 'TB of memory'),
    (['h-g', '--dataset', 'digits', '--runs', '2'], 'runs: must be 1'),
    (['llc', '--ngd-lr', '-1'], 'ngd_lr: must be'),
    (['singular', '--dims', '10', '--ranks', '11'], 'at most the dimension 10'),
    (['singular', '--lr', '.1'], 'must be < 4 for SGLD to be stable'),
    (['llc', '--nbeta-rule', 'n'], 'nbeta_rule: must be'),
    (['sweep', '--workers', '0', 'risk', '--a', '0'], 'workers')] # in one process: what differs from the other commands is only the recipe


def test_recipes_refuse_in_one_line(tmp_path):
    code = f"""
import contextlib, io, json
from precond.cli import main
def said(args):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err: rc = main(args)
    return rc, out.getvalue(), err.getvalue()
print(json.dumps([said(args) for args,_ in {REFUSED!r}]))"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert r.returncode==0, r.stderr
    for (args, wanted),(rc, out, err) in zip(REFUSED, json.loads(r.stdout), strict=True):
        assert rc==2 and wanted in err and err.count('\n')==1 and (not out or args[0]=='c-matrices'), (args, err)   # which says first what it takes
        assert not re.match(rf'precond {args[0]}: {args[0]}\b', err), err                                         # its name once
    assert not list(tmp_path.rglob('*.npy'))


GENERALIZATION = ['generalization', '--p', '-1', '1', '--seeds', '3', '--dh', '16', '--n', '1000', '--epochs', '1200', '--eval-every', '400', '--workers', '1']


def results(out):
    return (out/'results.csv').read_bytes(), {str(p.relative_to(out)):np.load(p).tobytes() for p in out.rglob('*.npy')}


@pytest.fixture(scope='module')
def powers(tmp_path_factory):
    "A generalisation run that nobody interrupted"
    out = tmp_path_factory.mktemp('powers')/'o'
    r = precond(*GENERALIZATION, '--out', out)
    assert r.returncode==0 and '=== Final Results ===' in r.stdout and r.stdout.count('\np=')==2, r.stderr
    return out


@pytest.mark.parametrize('how', ['SIGKILL', 'SIGINT'])
def test_interrupted_recipe_goes_on_with_the_same_numbers(how, powers, tmp_path):
    out = tmp_path/'o'
    p = subprocess.Popen([sys.executable, '-m', 'precond.cli', *GENERALIZATION, '--out', str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                         start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))   # background jobs ignore Ctrl-C
    deadline = time.time()+120
    while len(list((out/'cells').glob('*.json')))<2 and p.poll() is None and time.time()<deadline: time.sleep(.02)
    os.killpg(p.pid, getattr(signal, how))
    _, err = p.communicate(timeout=30)
    assert not (out/'results.csv').exists(), 'it finished before it was interrupted'
    if how=='SIGINT': assert p.returncode==130 and len(err.strip().splitlines())==1 and 'kept' in err, err
    kept = {f:f.stat().st_mtime_ns for f in (out/'cells').glob('*.json')}
    assert precond(*GENERALIZATION, '--out', out).returncode==0
    assert kept and all(f.stat().st_mtime_ns==t for f,t in kept.items()), 'a finished run was done again'
    assert results(out)==results(powers)


def test_seed_decides_and_workers_do_not(powers, tmp_path):
    assert precond(*GENERALIZATION[:-1], '2', '--out', tmp_path/'two').returncode==0 and results(tmp_path/'two')==results(powers)
    assert precond(*GENERALIZATION, '--seed', '7', '--out', tmp_path/'other').returncode==0 and results(tmp_path/'other')[0]!=results(powers)[0]


LLC = ('llc --modes swap --data digits --n-train 300 --n-test 100 --width 8 --epochs 6 --cut-off-epochs 2 --every 1 --sgd-lr .05 --ngd-lr .05 .1 '
       '--batch-size 50 --draws 8 --hessian-n 60 --iters 8 --seeds 2').split()


def test_llc_killed_goes_on_with_the_same_numbers(tmp_path):
    r = precond(*LLC, '--out', tmp_path/'whole')
    assert r.returncode==0 and 'written' in r.stdout and 'last epochs' in r.stdout, r.stderr
    assert all((tmp_path/'whole'/f).exists() for f in ('config.json', 'paths.csv', 'summary.csv', 'llc-swap.html', 'llc-swap.png'))
    out = tmp_path/'killed'
    p = subprocess.Popen([sys.executable, '-m', 'precond.cli', *LLC, '--out', str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time()+120
    while len(list((out/'cells').glob('*.json')))<5 and p.poll() is None and time.time()<deadline: time.sleep(.01)
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    kept = {f:f.stat().st_mtime_ns for f in (out/'cells').glob('*.json')}
    assert kept and not (out/'paths.csv').exists(), 'it finished before it was killed'
    assert precond(*LLC, '--out', out).returncode==0
    assert all(f.stat().st_mtime_ns==t for f,t in kept.items()), 'a finished cell was done again'
    assert all((out/f).read_bytes()==(tmp_path/'whole'/f).read_bytes() for f in ('paths.csv', 'summary.csv', 'ends.csv'))


def test_llc_of_a_known_problem(tmp_path):
    r = precond('llc', '--known', 'minimally_singular', '--r', '4', '--draws', '500', '--out', tmp_path/'o.json')
    d = json.loads((tmp_path/'o.json').read_text())
    assert r.returncode==0 and d['rlct']==2 and abs(d['llc']-d['exact'])<5*d['stderr']+.1, (r.stdout, r.stderr)
    assert precond('llc', '--known=quadratic', '--draws', '100').returncode==0


@pytest.mark.parametrize('args', [[*LLC, '--llc-lr', '10'], ['llc', '--known', 'quadratic', '--lr', '10']])
def test_llc_with_too_long_a_step_gives_chain_and_step_and_no_number(args, tmp_path):
    r = precond(*args, cwd=tmp_path)
    assert r.returncode==2 and not r.stdout and re.fullmatch(r'precond llc: chains must stay finite, received loss .* in chain \d+ at step \d+ .*: lower lr, now 10', r.stderr.strip()), r.stderr
    assert not list(tmp_path.rglob('*.csv'))
