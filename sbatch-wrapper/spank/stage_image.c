/* SPANK plugin of stage-image: the options --stage-image and --private-tmp, and each task's way into its job's mounts.
 *
 * It decides nothing. The options are handed to the Prolog as SPANK_STAGE_IMAGE and SPANK_STAGE_IMAGE_PRIVATE_TMP; a
 * task enters the mount namespace that the Prolog has pinned for its job, if there is one. No function returns an error
 * that would keep slurmd, slurmstepd or a job without these options from running.
 *
 * Built against the spank.h of the very Slurm that loads it: Slurm refuses plugins of other releases.
 */
#define _GNU_SOURCE /* setns(2) */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdint.h> /* spank.h uses its types */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <slurm/spank.h>

SPANK_PLUGIN(stage_image, 1)

#define JOBS "/run/stage-image/jobs"
#define SWITCHED_OFF "/etc/stage-image/disabled"
#define NSFS 0x6e736673	    /* linux/magic.h, NSFS_MAGIC */
#define LONGEST_REQUEST 4096 /* characters; the Prolog looks at no more */

static char *references;
static int private_tmp;

/* Whether an option's value can be a list of references: printable ASCII without blanks, not too long. The Prolog looks
 * again; what is refused here is refused while the user looks on. */
static int is_plausible(const char *text)
{
	size_t length = text ? strnlen(text, LONGEST_REQUEST + 1) : 0;

	if (!length || length > LONGEST_REQUEST)
		return 0;
	for (; *text; text++)
		if (*text <= ' ' || *text > '~')
			return 0;
	return 1;
}

static int take_references(int value, const char *argument, int remote)
{
	char *copy;

	(void)value;
	if (remote) /* the node has its answer from the Prolog */
		return 0;
	if (!is_plausible(argument)) {
		slurm_error("stage-image: --stage-image wants REF or REF,REF… without blanks, %d characters at most",
			    LONGEST_REQUEST);
		return -1;
	}
	copy = strdup(argument);
	if (!copy)
		return -1;
	free(references);
	references = copy;
	return 0;
}

static int take_private_tmp(int value, const char *argument, int remote)
{
	(void)value;
	(void)argument;
	(void)remote;
	private_tmp = 1;
	return 0;
}

static struct spank_option options[] = {
	{"stage-image", "REF[,REF...]", "Stage container images on the job's nodes before it starts", 1, 0, take_references},
	{"private-tmp", NULL, "Give the job temporary directories of its own", 0, 0, take_private_tmp},
	SPANK_OPTIONS_TABLE_END,
};

/* Options count only where they are registered, so they are wherever Slurm parses or hands them on. */
int slurm_spank_init(spank_t spank, int argc, char **argv)
{
	spank_context_t context = spank_context();
	struct spank_option *option;

	(void)argc;
	(void)argv;
	if (context != S_CTX_ALLOCATOR && context != S_CTX_LOCAL && context != S_CTX_REMOTE)
		return 0;
	for (option = options; option->name; option++)
		if (spank_option_register(spank, option) != ESPANK_SUCCESS)
			slurm_error("stage-image: the option --%s is not to be had, another plugin may own it", option->name);
	return 0;
}

/* Whether this is a step in a job that was submitted without these references: steps inherit the job's option. */
static int is_new_to_the_job(void)
{
	const char *of_job = getenv("SLURM_SPANK_STAGE_IMAGE");

	return getenv("SLURM_JOB_ID") && (!of_job || strcmp(of_job, references));
}

/* Tells the Prolog and the Epilog; whoever submits cannot set SPANK_ variables otherwise. */
int slurm_spank_init_post_opt(spank_t spank, int argc, char **argv)
{
	spank_context_t context = spank_context();
	spank_err_t told = ESPANK_SUCCESS;

	(void)argc;
	(void)argv;
	if (context != S_CTX_ALLOCATOR && context != S_CTX_LOCAL)
		return 0;
	if (context == S_CTX_LOCAL && references && is_new_to_the_job())
		slurm_spank_log("stage-image: a step begins without a Prolog, --stage-image has no effect on it: "
				"try srun stage-image exec REF -- ...");
	if (references)
		told = spank_job_control_setenv(spank, "STAGE_IMAGE", references, 1);
	if (told == ESPANK_SUCCESS && private_tmp)
		told = spank_job_control_setenv(spank, "STAGE_IMAGE_PRIVATE_TMP", "1", 1);
	if (told == ESPANK_SUCCESS)
		return 0;
	slurm_error("stage-image: the Prolog cannot be told: %s", spank_strerror(told));
	return -1; /* the user has asked, and would wait for an image in vain */
}

/* Returns a descriptor of the job's mount namespace; -1 if there is none, -2 if what is there is none of root's. */
static int open_namespace(uint32_t job)
{
	char path[sizeof(JOBS) + 40];
	struct statfs system;
	struct stat file;
	int fd;

	snprintf(path, sizeof(path), JOBS "/slurm-%u/ns/mnt", (unsigned)job);
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0) {
		if (errno == ENOENT)
			return -1;
		slurm_error("stage-image: %s: %s", path, strerror(errno));
		return -2;
	}
	if (fstat(fd, &file) || file.st_uid || fstatfs(fd, &system) || system.f_type != NSFS) {
		slurm_error("stage-image: %s is no namespace of root's", path);
		close(fd);
		return -2;
	}
	return fd;
}

/* As the job's user: there may be a link of his on the way, and root may not be allowed into a home on NFS. */
static int change_folder(spank_t spank, const char *path)
{
	uid_t uid;
	gid_t gid;
	int failed;

	if (spank_get_item(spank, S_JOB_UID, &uid) != ESPANK_SUCCESS ||
	    spank_get_item(spank, S_JOB_GID, &gid) != ESPANK_SUCCESS)
		return -1;
	setfsgid(gid);
	setfsuid(uid);
	failed = chdir(path);
	setfsuid(0);
	setfsgid(0);
	return failed;
}

/* Enters the namespace; its root directory is then the current one, and the old one is looked for anew. A descriptor of
 * the old one would lead back out. */
static int enter(spank_t spank, int fd)
{
	char old[PATH_MAX];

	if (!getcwd(old, sizeof(old)))
		strcpy(old, "/");
	if (setns(fd, CLONE_NEWNS)) {
		slurm_error("stage-image: the job's mounts cannot be entered: %s", strerror(errno));
		return -1;
	}
	if (!change_folder(spank, old))
		return 0;
	slurm_error("stage-image: %s is not there among the job's own directories (%s), starting in /tmp instead", old,
		    strerror(errno));
	if (chdir("/tmp")) /* setns(2) has left us in "/" */
		slurm_error("stage-image: /tmp: %s", strerror(errno));
	return 0;
}

/* In the task's process, while it is still root's: before the TaskProlog, which so sees what the task sees.
 *
 * Slurm overlooks what an optional plugin returns here, so a task that must not run where others could look into its
 * files ends itself, as Slurm would for a required one. */
int slurm_spank_task_init_privileged(spank_t spank, int argc, char **argv)
{
	uint32_t job;
	int fd, failed, task = 0;

	(void)argc;
	(void)argv;
	if (!access(SWITCHED_OFF, F_OK) || spank_get_item(spank, S_JOB_ID, &job) != ESPANK_SUCCESS)
		return 0;
	fd = open_namespace(job);
	if (fd == -1) {
		if (private_tmp && spank_get_item(spank, S_TASK_ID, &task) == ESPANK_SUCCESS && !task)
			slurm_spank_log("stage-image: this node gives no private directories, --private-tmp is of no effect");
		return 0;
	}
	failed = fd < 0 || enter(spank, fd);
	if (fd >= 0)
		close(fd);
	if (failed && private_tmp)
		_exit(1);
	return 0;
}
