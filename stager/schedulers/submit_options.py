"""The options of sbatch, srun and salloc: which of them take a value from the next word.

From the manual pages of Slurm 22.05, and what src/common/slurm_opt.c of later versions has more. What is in neither
(another site's plugins) is for whoever asks to find out, in `sbatch --help` say.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VALUED = _words("""
    accel-bind account acctg-freq array autocomplete batch bb bbf bcast-exclude begin chdir cluster
    cluster-constraint clusters comment constraint container container-id core-spec cores-per-socket cpu-bind
    cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot dependency distribution epilog error exclude export
    export-file extra extra-node-info gid gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres
    gres-flags het-group hint input job-name jobid kill-on-invalid-dep launch-cmd launcher-opts licenses mail-type
    mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincores mincpus minsockets minthreads mpi msg-timeout
    network nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket
    ntasks-per-tres open-mode output pack-group partition power prefer priority profile prolog qos relative
    reservation segment signal slurmd-debug sockets-per-node switches task-epilog task-prolog tasks-per-node
    thread-spec threads threads-per-core time time-min tmp tree-width tres-bind tres-per-task uid wait-all-nodes
    wckey workdir wrap
""")
"""Long options that need a value: behind `=`, or the next word."""

PLAIN = _words("""
    bcast bell compress consolidate-segments contiguous debugger-test disable-status exact exclusive external
    external-launcher get-user-env help hold ignore-pbs immediate interactive kill-command kill-on-bad-exit label
    multi-prog nice no-allocate no-bell no-kill no-requeue no-shell oom-kill-step overcommit overlap oversubscribe
    parsable preserve-env propagate pty quiet quit-on-interrupt reboot requeue resv-ports send-libs share spread-job
    spread-segments stepmgr test-only unbuffered usage use-min-nodes verbose version wait-for-children whole x11
""")
"""Long options that take no value from the next word; some may have one behind `=`. `wait` depends on the program."""

NOT_OF_SBATCH = _words("""
    accel-bind autocomplete bcast bcast-exclude bell compress container-id cpu-bind debugger-test disable-status epilog
    exact external external-launcher het-group immediate interactive jobid kill-command kill-on-bad-exit label
    launch-cmd launcher-opts mincores minsockets minthreads mpi msg-timeout multi-prog no-allocate no-bell no-shell
    overlap pack-group preserve-env prolog pty quit-on-interrupt relative resv-ports send-libs slurmd-debug task-epilog
    task-prolog threads unbuffered wait-for-children whole x11
""")
"""Of srun and salloc only: sbatch does not count them when an option is abbreviated (measured with 22.05)."""

SHORT = {
    pair[-1]: pair[:-2]
    for pair in _words("""
    account:A array:a extra-node-info:B begin:b constraint:C cpus-per-task:c chdir:D dependency:d error:e nodefile:F
    gpus:G hold:H help:h input:i job-name:J licenses:L clusters:M distribution:m nodes:N ntasks:n overcommit:O output:o
    partition:p quiet:Q qos:q core-spec:S oversubscribe:s time:t usage:u verbose:v version:V nodelist:w wait:W exclude:x
    no-kill:k immediate:I kill-on-bad-exit:K preserve-env:E label:l relative:r threads:T disable-status:X no-allocate:Z
""")
}
"""Letter → name. Only those matter that take a value, and, of srun, some that do not."""


def takes_value(name: str, program: str) -> bool | None:
    """Whether a long option of sbatch, srun or salloc takes its value from the next word; None if it is unknown."""
    if name == "wait":
        return program == "srun"
    return True if name in VALUED else False if name in PLAIN else None


def full_name(name: str, program: str) -> str:
    """Return the option that `name` is the beginning of, as getopt_long(3) finds it; itself if there is no such one."""
    known = (VALUED | PLAIN | {"wait"}) - (NOT_OF_SBATCH if program == "sbatch" else frozenset())
    if name in known:
        return name
    found = [each for each in known if each.startswith(name)]
    return found[0] if len(found) == 1 else name


def in_help(text: str) -> dict[str, bool]:
    """Return the long options that a program's --help shows, and whether each needs a value."""
    lines = re.findall(r"^ +(?:-[A-Za-z], )?--([a-z0-9][a-z0-9-]*)(\[?)(=?)", text, re.MULTILINE)
    return {name: equals == "=" and not bracket for name, bracket, equals in lines}
