"""One thread for each process, as `make test` has it: what the stored outputs and the budgets were made with"""
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
