"""Sweeps that are killed, interrupted, shared, and starved of disk: whole processes, real signals, real clusters.

The main process of a sweep is forked from this one, which has imported everything; its workers start as they always do."""
import collections, contextlib, json, os, random, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import psutil
import pytest

import precond.recipes.lazy, precond.sweep                       # noqa: F401  what a forked process then has
from precond import cli

pytestmark = pytest.mark.skipif(sys.platform=='win32', reason='processes are forked')

RECIPE = '''
import os, signal, time
from dataclasses import dataclass
import numpy as np, torch
from precond.sweep import Diverged

@dataclass
class Config:
    "A power iteration that takes its time"
    seed: int = 0
    width: int = 4
    seconds: float = .05
    deadly: bool = False

def log(cfg):
    f = os.open(os.environ['RUN_LOG'], os.O_WRONLY|os.O_APPEND|os.O_CREAT)
    os.write(f, f'{cfg.seed} {cfg.width}\\n'.encode()); os.close(f)

def solve(cfg):
    A = torch.randn(100, 100, generator=torch.Generator().manual_seed(cfg.seed), dtype=torch.float64)
    v = torch.ones(100, cfg.width, dtype=torch.float64)
    for _ in range(8): time.sleep(cfg.seconds/8); v = torch.linalg.qr(A@v).Q
    return dict(norm=float((A@v).norm()), v=v, path=np.arange(cfg.seed%4))

def run(cfg):
    if cfg.deadly: os.kill(os.getpid(), signal.SIGKILL)
    out = solve(cfg)
    log(cfg)
    if cfg.seed%9==4: raise RuntimeError(f'four: {cfg.seed}')
    if cfg.seed%9==7: raise Diverged('seven', dict(norm=out['norm'], v=out['v']))
    return out
'''
BATCHES = RECIPE+'''
def group(cfg): return cfg.width
def run_batch(cfgs, done):
    for i in sorted(range(len(cfgs)), key=lambda i: cfgs[i].seed*7%5):
        try: result = run(cfgs[i])
        except Exception as e: result = e
        done(i, result)
'''
JOBS = ['--seed', '0:30', '--width', '4', '8']


@pytest.fixture(scope='module', autouse=True)
def recipes(tmp_path_factory):
    "Two recipes on the path, of this process and of those it starts"
    d = tmp_path_factory.mktemp('recipes')
    (d/'kill_single.py').write_text(RECIPE); (d/'kill_batches.py').write_text(BATCHES)
    with pytest.MonkeyPatch.context() as m:
        m.syspath_prepend(str(d)); m.setenv('PYTHONPATH', os.pathsep.join([str(d), *filter(None, sys.path)])); m.setenv('RUN_LOG', str(d/'log'))
        yield d


class Main:
    "`precond sweep` in a process of its own, at the head of its group"
    def __init__(self, out, *args, log=None, fork=True):
        self.out, self.said = Path(out), Path(out).with_suffix('.err')
        if not fork:
            with self.said.open('w') as f: self.process = subprocess.Popen([sys.executable, '-m', 'precond.cli', 'sweep', '--out', str(out), *args], stdout=f, stderr=f, start_new_session=True,
                                                                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))      # background jobs ignore Ctrl-C
            self.pid = self.process.pid; return
        self.pid = os.fork()
        if self.pid==0:
            status = 99
            try:
                os.setsid()
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for fd in (1, 2): os.dup2(os.open(self.said, os.O_WRONLY|os.O_CREAT|os.O_APPEND), fd)
                sys.stdout, sys.stderr = (open(fd, 'w', buffering=1, closefd=False) for fd in (1, 2))
                if log: os.environ['RUN_LOG'] = str(log)
                status = cli.main(['sweep', '--out', str(out), *map(str, args)])
            finally: os._exit(status)
    def wait(self, timeout=120):
        end = time.time()+timeout
        while time.time()<end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid: return os.waitstatus_to_exitcode(status)
            time.sleep(.02)
        os.killpg(self.pid, signal.SIGKILL)
        raise TimeoutError(self.said.read_text())
    def kill(self): os.kill(self.pid, signal.SIGKILL); self.wait()
    def killpg(self): os.killpg(self.pid, signal.SIGKILL); self.wait()
    def group(self):
        "Living processes of the group"
        return [p for p in psutil.process_iter() if same_group(p, self.pid)]


def same_group(p, group):
    try: return os.getpgid(p.pid)==group and p.status()!=psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess): return False


def until(true, what, timeout=60):
    end = time.time()+timeout
    while not (got := true()):
        if time.time()>end: raise TimeoutError(what)
        time.sleep(.005)
    return got


def at_work(out):
    "Processes that hold claims"
    pids = set()
    for folder,_,files in os.walk(Path(out)/'claims'):
        if 'owner.json' in files:
            with contextlib.suppress(OSError, ValueError): pids.add(json.loads(Path(folder, 'owner.json').read_text())['pid'])
    return sorted(p for p in pids if alive(p))


def alive(pid):
    try: return psutil.Process(pid).status()!=psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False


def records(out):
    "Every record, whole: all but its provenance, and its arrays to the bit"
    found = {}
    for f in (Path(out)/'runs').glob('[!.]*.json'):
        r = json.loads(f.read_text())
        with np.load(f.with_suffix('.npz')) if r['arrays'] else contextlib.nullcontext({}) as z:
            arrays = {k:(str(v.dtype), v.shape, v.tobytes()) for k,v in z.items()}
        assert sorted(arrays)==r['arrays']
        r['values'].pop('traceback', None)
        found[f.stem] = {k:v for k,v in r.items() if k!='provenance'}, arrays
    return found


def done(out): return len(list((Path(out)/'runs').glob('[!.]*.json')))
def times(out): return {f.name:f.stat().st_mtime_ns for f in (Path(out)/'runs').glob('[!.]*.json')}
def claims(out): return os.listdir(Path(out)/'claims')


def sweep(out, *args, **how): return Main(out, *args, **how).wait()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The records of unkilled sweeps, by recipe"
    out = tmp_path_factory.mktemp('whole')
    mains = [Main(out/name, f'{name}:run', *JOBS) for name in ('kill_single', 'kill_batches')]
    assert [m.wait() for m in mains]==[1, 1]                     # some runs fail
    return {name:records(out/name) for name in ('kill_single', 'kill_batches')}


@pytest.mark.parametrize('name', ['kill_single', 'kill_batches'])
def test_killed_at_random_moments(name, whole, tmp_path):
    out, rng, kept, kills = tmp_path/'s', random.Random(name), {}, 0
    args = [f'{name}:run', *JOBS, '--workers', '2', '--batch', '5']
    def check():
        nonlocal kills
        kills += 1
        now = times(out)
        assert all(now.get(k)==t for k,t in kept.items()), 'a finished run was done again'
        kept.update(now)
        found = records(out)
        assert all(whole[name][k]==r for k,r in found.items())
    for _ in range(2):                                           # while it starts
        m = Main(out, *args); until(lambda: (out/'claims').exists(), 'claims'); time.sleep(rng.uniform(0, .6))
        m.killpg(); check()
    m = Main(out, *args)
    until(lambda: done(out), 'a record'); time.sleep(rng.uniform(0, .2))
    m.killpg(); check()                                          # everything at once
    def kill_worker(m, both=False):
        pids = until(lambda: [p for p in at_work(out) if p!=m.pid], 'a worker at work')
        time.sleep(rng.uniform(0, .12))
        for p in pids if both else [rng.choice(pids)]:
            with contextlib.suppress(ProcessLookupError): os.kill(p, signal.SIGKILL)     # an orphan of before that has just stopped
        check()
    m = Main(out, *args)
    kill_worker(m); kill_worker(m)
    workers = until(lambda: [p for p in at_work(out) if p!=m.pid], 'a worker at work')
    m.kill(); check()                                            # the main process alone: its workers stop by themselves
    until(lambda: not m.group(), 'orphans are still there', 10)
    assert workers
    n = done(out); time.sleep(.3); assert done(out)==n
    m = Main(out, *args)
    for both in (False, True, False, False): kill_worker(m, both)
    assert m.wait()==1, m.said.read_text()                       # some runs failed, as they should
    check()
    assert kills==11 and records(out)==whole[name] and claims(out)==[]
    assert sweep(out, *args)==1 and times(out)==kept and not m.group()


def test_lazy_killed_in_a_batch_goes_on_with_the_same_bits(tmp_path):
    args = 'lazy --dataset pca_mnist5k --d 10 --seed_init 0:4 --alpha .1 10 1000 --h 6 --ptr 60 --pte 50 --ptk 20 --delta_kernel True --max_evals 120 --batch 12'.split()
    assert sweep(tmp_path/'whole', *args)==0
    m, n = None, 0
    for more in (1, 4):                                          # a batch of 12, of what is left, and of what is left then
        m = Main(tmp_path/'s', *args)
        until(lambda n=n, more=more: done(tmp_path/'s')>=n+more, 'a record'); m.killpg()
        n = done(tmp_path/'s')
    assert 5<=n<12, 'it finished before it was killed'
    kept = times(tmp_path/'s')
    assert sweep(tmp_path/'s', *args)==0 and records(tmp_path/'s')==records(tmp_path/'whole')
    assert len(times(tmp_path/'s'))==12 and kept.items()<=times(tmp_path/'s').items() and claims(tmp_path/'s')==[]


@pytest.mark.parametrize('name', ['kill_single', 'kill_batches'])
def test_two_processes_share_a_folder(name, whole, tmp_path):
    args = [f'{name}:run', *JOBS, '--batch', '3', '--export', tmp_path/'s.nc']
    both = [Main(tmp_path/'s', *args, log=tmp_path/'log') for _ in range(2)]
    assert [m.wait() for m in both]==[1, 1]
    lines = (tmp_path/'log').read_text().splitlines()
    assert len(lines)==60 and set(collections.Counter(lines).values())=={1}
    said = [l for l in both[0].said.read_text().splitlines() if 'done' in l]
    assert len(said)==2 and said[0]==said[1]                     # both write there
    assert records(tmp_path/'s')==whole[name] and claims(tmp_path/'s')==[]


@pytest.mark.parametrize('when', ['starting', 'working'])
def test_ctrl_c(when, whole, tmp_path):
    m = Main(tmp_path/'s', 'kill_single:run', *JOBS, '--workers', '2', fork=False)
    if when=='working': until(lambda: done(tmp_path/'s')>1, 'records')
    else: until(lambda: len(m.group())>2, 'workers'); time.sleep(.3)
    os.killpg(m.pid, signal.SIGINT)
    assert m.wait(20)==130
    said = m.said.read_text().splitlines()
    assert len(said)==1 and 'interrupted; what was finished is kept' in said[0], said
    until(lambda: not m.group(), 'processes are left', 10)
    found = records(tmp_path/'s')
    assert all(whole['kill_single'][k]==r for k,r in found.items()) and not at_work(tmp_path/'s')
    assert len(found)>1 if when=='working' else not found


def test_stop_file(tmp_path):
    m = Main(tmp_path/'s', 'kill_single:run', *JOBS)
    until(lambda: done(tmp_path/'s')>1, 'records'); (tmp_path/'s'/'stop').touch()
    assert m.wait()==1
    n = done(tmp_path/'s')
    assert f'{60-n} runs are missing; remove the file to go on' in m.said.read_text() and f'{60-n} missing' in m.said.read_text()
    assert 'Traceback' not in m.said.read_text() and claims(tmp_path/'s')==[] and n<60


def test_failed_runs_are_retried_on_request(tmp_path):
    log, args = tmp_path/'log', ['kill_single:run', '--seed', '0', '4', '7', '--seconds', '0']
    m = Main(tmp_path/'s', *args, log=log)
    assert m.wait()==1 and '1 done, 1 failed, 1 diverged' in m.said.read_text() and '1 failed: RuntimeError: four: 4' in m.said.read_text()
    before = times(tmp_path/'s')
    assert sweep(tmp_path/'s', *args, log=log)==1 and times(tmp_path/'s')==before and len(log.read_text().splitlines())==3
    assert sweep(tmp_path/'s', *args, '--retry-failed', log=log)==1
    assert log.read_text().splitlines()[3:]==['4 4', '7 4'] and sum(times(tmp_path/'s')[k]==t for k,t in before.items())==1


def test_a_run_that_kills_its_worker_is_recorded_and_the_others_are_done(tmp_path):
    m = Main(tmp_path/'s', 'kill_batches:run', '--deadly', 'false', 'true', '--seed', '0', '1', '--where', 'not (deadly and seed==0)', '--workers', '2')
    assert m.wait()==1 and '2 done, 1 failed, 1 excluded' in m.said.read_text(), m.said.read_text()
    assert 'WorkerDied: 3 times: a worker process died' in m.said.read_text() and claims(tmp_path/'s')==[]


def test_dask_loses_a_worker(whole, tmp_path):
    pytest.importorskip('distributed')
    m = Main(tmp_path/'s', 'kill_batches:run', *JOBS, '--engine', 'dask', '--workers', '2', '--batch', '4')
    until(lambda: done(tmp_path/'s')>2 and len(at_work(tmp_path/'s'))==2, 'two workers at work')
    kept = times(tmp_path/'s')
    os.kill(at_work(tmp_path/'s')[0], signal.SIGKILL)
    assert m.wait()==1, m.said.read_text()
    assert records(tmp_path/'s')==whole['kill_batches'] and claims(tmp_path/'s')==[] and kept.items()<=times(tmp_path/'s').items()
    until(lambda: not m.group(), 'processes are left', 10)


def test_dask_ctrl_c(whole, tmp_path):
    pytest.importorskip('distributed')
    m = Main(tmp_path/'s', 'kill_single:run', *JOBS, '--engine', 'dask', '--workers', '2')
    until(lambda: done(tmp_path/'s')>1, 'records')
    os.killpg(m.pid, signal.SIGINT)
    assert m.wait(40)==130 and len(m.said.read_text().splitlines())==1, m.said.read_text()
    until(lambda: not m.group(), 'processes are left', 10)
    assert all(whole['kill_single'][k]==r for k,r in records(tmp_path/'s').items())


def jobs_of(m):
    "The processes of submitit that do the work, oldest first"
    found = [p for p in m.group() if 'submitit.core._submit' in ' '.join(p.cmdline())]
    return sorted({p.pid for p in found}&set(at_work(m.out)))


def test_submitit_requeues_a_job_and_loses_another(whole, tmp_path):
    pytest.importorskip('submitit')
    m = Main(tmp_path/'s', 'kill_batches:run', *JOBS, '--engine', 'submitit', '--workers', '2', '--batch', '4', '--engine-options', 'cluster=local', 'poll=.2')
    first, second = until(lambda: len(w := jobs_of(m))==2 and w, 'two jobs at work')
    os.kill(first, signal.SIGUSR2)                               # as SLURM does before the time is up
    until(lambda: first not in [p.pid for p in m.group()], 'the job to stop')
    kept = times(tmp_path/'s')
    os.kill(second, signal.SIGKILL)                              # the first, queued again, does the rest
    assert m.wait()==1, m.said.read_text()
    assert records(tmp_path/'s')==whole['kill_batches'] and kept.items()<=times(tmp_path/'s').items() and claims(tmp_path/'s')==[]
    logs = ''.join(p.read_text() for p in (tmp_path/'s'/'jobs').rglob('*.out'))+''.join(p.read_text() for p in (tmp_path/'s'/'jobs').rglob('*.err'))
    assert 'Requeued job' in logs and 'Caught signal SIGUSR2' in logs
    until(lambda: not m.group(), 'processes are left', 10)


FULL = """
import os, subprocess, sys
from pathlib import Path
from precond.cli import main
out = sys.argv[1]
def sweep(): return main(['sweep', '--out', out+'/s', 'kill_single:run', '--seed', '0:5', '10:12', '--width', '40', '--seconds', '0'])
print(sweep(), len(list(Path(out).rglob('*.json'))), len(list(Path(out).rglob('*.tmp'))), os.listdir(out+'/s/claims'), flush=True)
before = {f:f.stat().st_mtime_ns for f in Path(out, 's', 'runs').glob('*.json')}
subprocess.run(['mount', '-o', 'remount,size=2m', out], check=True)
print(sweep(), all(f.stat().st_mtime_ns==t for f,t in before.items()))
"""


def test_full_disk(tmp_path):
    if not shutil.which('unshare'): pytest.skip('no unshare')
    mount = f'mount -t tmpfs -o size=160k tmpfs {tmp_path} && '
    if subprocess.run(['unshare', '-rm', 'sh', '-c', mount+'true'], capture_output=True).returncode: pytest.skip('may not mount a small disk')
    r = subprocess.run(['unshare', '-rm', 'sh', '-c', f'{mount} exec {sys.executable} -c "$0" {tmp_path}', FULL], capture_output=True, text=True, timeout=120)
    lines = r.stdout.splitlines()
    assert 'No space left on device' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    status, n, parts, left = lines[0].split(maxsplit=3)
    assert (status, parts, left)==('2', '0', '[]') and 2<int(n)<8, lines          # sweep.json and what fitted
    assert lines[1].startswith('6 done, 1 failed') and lines[-1]=='1 True', lines
