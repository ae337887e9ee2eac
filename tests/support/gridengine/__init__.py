"""A real Grid Engine of several hosts on one machine: qmaster, execution hosts and an origin, each with a host.

    with gridengine(tmp_path, hosts=3, slots=4, sensor=True, hooks=True, site={"budget": "5s"}) as bed:
        url = bed.origin.put("tool.sqsh", image())
        job = bed.qsub("#!/bin/sh\\nstage-image path " + url, "-l", "hostname=e2")
        assert bed.await_job(job) == "0", bed.output(job)
        assert bed.leftovers() == []

`gridengine(folder, hosts=3, slots=4, sensor=False, hooks=False, zookeeper=False, complexes=(), …)`, and:
  hosts      execution hosts e1, e2, …, each with `slots` slots in the queue all.q; pe_list has `spread` ($round_robin)
             and `fill` ($fill_up), both with control_slaves
  sensor     True: load_sensor is that of sbatch-wrapper/gridengine, and the complexes of stage-image are there; a path:
             that script
  hooks      True: prolog and epilog (as root) and starter_method are those of sbatch-wrapper/gridengine; a directory:
             those in it (`prolog`, `epilog`, `starter`, whichever are there)
  zookeeper  with a server of its own, and cluster scope in the settings of all hosts
  complexes  more lines of `qconf -sc`
  site       settings of /etc/stage-image/config.toml, dotted names; `store` and `gridengine.allow` have values
  conf       lines of the global configuration, queue: of all.q, to replace
  rate       Mbit/s of every host's link, and of the origin's; 0 is unshaped

bed.user, bed.other      ordinary users (alice, bob): run(*words, node=None, env={}) -> Ran(code, out, err);
                         start(*words, ...) -> Process; on the qmaster's host unless another is named; home /home/alice
                         is on all hosts, and is bed.user.home out here. qsub, qhost … are on everybody's PATH
bed.root                 the same as root, who is manager; stage-image is there as well
bed.hosts, bed.master    Machine: name, host, address, store and others out here (`view(path)`), run(*words) as root,
                         kill() (power failure), start() (boots again, reports again); bed.host(name)
bed.qsub(script, *options, env={}, user=None) -> id; bed.await_job(id) -> exit codes of what ran, sorted, "0,3";
bed.await_state(id, "r"); bed.states(id); bed.output(id, task=0); bed.accounts(id) -> [Account(host, failed, …)]
bed.qconf(*words, stdin="") -> what it says; bed.set_queue(starter_method=…), bed.set_conf(load_sensor=…)
bed.qhost_values(host) -> {complex: value}; bed.await_value(host, complex, predicate) -> value
bed.queue_states() -> {host: letters}, E is an error; bed.messages(host=None) -> what execd, or qmaster, logged
bed.origin               nginx: put(name, bytes) -> URL, requests, bytes_served, stop(), start()
bed.leftovers()          what is left on the hosts of jobs that have ended: processes, mounts, loop devices, leases of
                         jobs, records; waits until nothing is, for a few seconds

A host sees the machine it runs on, but has its own network, host name, processes, /run, /tmp, /home, /var/…, /etc, as
in tests.support.slurm. What is on its disk (store, /var/spool, /var/tmp) outlives kill(). `stage-image` is in
/usr/local/bin. Values reach the qmaster within a second.
"""

from __future__ import annotations

from tests.support.gridengine.bed import Account, Bed, gridengine
from tests.support.gridengine.machine import Machine
from tests.support.slurm.users import Ran

__all__ = ["Account", "Bed", "Machine", "Ran", "gridengine"]
