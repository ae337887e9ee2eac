"""A real Slurm of several nodes on one machine: controller, nodes and an origin, each on a host of its own.

    with slurm(tmp_path, nodes=4, hooks=True, site={"slurm.budget": "5s"}) as bed:
        url = bed.origin.put("tool.sqsh", image())
        ran = bed.user.run("srun", "-N4", "--ntasks-per-node=16", "stage-image", "path", url)
        assert ran.code == 0, ran.err
        job = bed.sbatch("#!/bin/sh\\nhostname\\n", "-N2", "--comment=stage-image=...")
        assert bed.await_job(job) == "COMPLETED", bed.output(job)
        assert bed.leftovers() == []

`slurm(folder, nodes=4, cpus=16, hooks=False, zookeeper=False, spank=False, site={}, conf={}, rate=0)`:
  hooks      True: Prolog, Epilog and TaskProlog are those of sbatch-wrapper/slurm; a directory: those in it (`prolog`,
             `epilog`, `task-prolog`, whichever are there)
  zookeeper  with a server of its own, and cluster scope in the settings of all nodes
  spank      the plugin is built and loaded (`optional`)
  site       settings of /etc/stage-image/config.toml, dotted names; `store` and `slurm.allow`, the origin, have values
  conf       lines of slurm.conf to add or replace; None takes one out
  rate       Mbit/s of every node's link, and of the origin's; 0 is unshaped. bed.shape(host, rate) later

bed.user, bed.other      ordinary users (alice, bob): run(*words, node=None, env={}) -> Ran(code, out, err);
                         start(*words, ...) -> Process (out, err, running, done() -> code, kill()); on the controller
                         unless a node is named; home /home/alice is on all nodes, and is bed.user.home out here
bed.root                 the same as root
bed.nodes, bed.ctl       Machine: name, host, address, store and others out here (`view(path)` for any path of its own),
                         run(*words) as root, kill() (power failure, told to Slurm), start() (boots again, comes back)
bed.sbatch(script, *options, env={}) -> id; bed.await_job(id) -> state, once its Epilogs are through; bed.output(id)
bed.job(id) -> the fields of `scontrol show job`; bed.states(), bed.drained(), bed.scontrol(*words), bed.idle() waits
bed.origin               nginx: put(name, bytes) -> URL, requests, bytes_served, stop(), start()
bed.log(node) -> what slurmd wrote; bed.log() what slurmctld wrote
bed.leftovers()          what is left on the nodes of jobs that have ended: processes, mounts, loop devices, leases of
                         jobs, records, private directories; waits until nothing is, for a few seconds

A node sees the machine it runs on, but has its own network, host name, processes, boot id, /run, /tmp, /dev/shm, /home,
/var/spool, /var/tmp and /var/cache. Of /etc, /usr/local, /opt and /var/lib it changes a copy that ends with its power;
all else is for reading only. What is on its disk (store, /var/spool, /var/tmp) outlives kill(). `stage-image` is in
/usr/local/bin and runs this checkout, with its Python in /usr/local/lib/stage-image, for every user.
"""

from __future__ import annotations

from tests.support.slurm.bed import Bed, Node, slurm
from tests.support.slurm.machine import Machine
from tests.support.slurm.users import Ran

__all__ = ["Bed", "Machine", "Node", "Ran", "slurm"]
