/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kage run: starts a program as it would be started without kage.
 *
 * The program is a child in kage's own process group, as under env(1) or nice(1), so that
 * pipelines, job control and the keys of the terminal work without our doing. With --tty it leads a
 * session of its own on a pty of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/duration.h"
#include "cli/foreground.h"
#include "cli/relay.h"

struct run_values {
	const char *name;
	const char *every;
	const char *keep;
	const char *git;
	const char *recipient;
	bool tty;
};

/* As env(1), nice(1) and the shell have it. */
enum { NOT_EXECUTABLE = 126, NOT_FOUND = 127 };

static const struct cli_option options[] = {
	{ "name", 'n', "NAME", "images of the program go to history NAME", CLI_TEXT,
	  .offset = offsetof(struct run_values, name) },
	{ "tty", 't', NULL, "give the program a terminal of its own", CLI_FLAG,
	  .offset = offsetof(struct run_values, tty) },
	{ "every", 'e', "DURATION", "record it: an image each DURATION, as 'kage record' does",
	  CLI_TEXT, .offset = offsetof(struct run_values, every) },
	{ "keep", 0, "SPAN[=EVERY],…", "with --every: keep images of the last SPAN", CLI_TEXT,
	  .offset = offsetof(struct run_values, keep) },
	{ "git", 0, "DIR",
	  "with --every: commit the files that it writes to the git repository DIR", CLI_TEXT,
	  .offset = offsetof(struct run_values, git) },
	{ "recipient", 0, "KEY",
	  "with --every: encrypt for the public KEY, or the one in a file KEY", CLI_TEXT,
	  .offset = offsetof(struct run_values, recipient) },
	{ 0 },
};

/* In the child: makes the slave at PATH its standard descriptors and controlling terminal. */
static int take_terminal(const char *path)
{
	int fd;

	if (setsid() < 0)
		return errno;
	fd = open(path, O_RDWR | O_NOCTTY);
	if (fd < 0 || ioctl(fd, TIOCSCTTY, 0))
		return errno;
	for (int to = STDIN_FILENO; to <= STDERR_FILENO; to++)
		if (dup2(fd, to) < 0)
			return errno;
	if (fd > STDERR_FILENO)
		close(fd);
	return 0;
}

/* In the child: never returns. REPORT takes the errno value of what failed. */
static _Noreturn void become(const struct cli_foreground *fg, const struct run_values *values,
			     const char *slave, char **argv, int report)
{
	int num = slave ? take_terminal(slave) : 0;

	/* The name goes with the program wherever it goes, and into its images. */
	if (num == 0 && values->name && setenv("KAGE_NAME", values->name, 1))
		num = errno;
	if (num == 0) {
		cli_foreground_release(fg);
		execvp(argv[0], argv);
		num = errno;
	}
	if (write(report, &num, sizeof(num)) < 0)
		_exit(CLI_FAILED);
	_exit(CLI_FAILED);
}

/* Starts the program. Returns 0 or the errno value of what failed in us or in the child. */
static int start(const struct cli_foreground *fg, const struct run_values *values,
		 const char *slave, char **argv, pid_t *ret_pid)
{
	int report[2], num = 0;
	pid_t pid;

	if (pipe2(report, O_CLOEXEC))
		return errno;
	pid = fork();
	if (pid == 0)
		become(fg, values, slave, argv, report[1]);
	if (pid < 0)
		num = errno;
	close(report[1]);
	/* The end of file comes from the exec that succeeded. */
	if (pid > 0 && read(report[0], &num, sizeof(num)) != (ssize_t)sizeof(num))
		num = 0;
	close(report[0]);
	*ret_pid = pid;
	return num;
}

static int fail_start(struct cli *cli, const char *program, int num)
{
	cli_fail_own(cli, num == ENOENT ? KAGE_NOTFOUND : KAGE_SYS, num, "cannot start %s",
		     program);
	return num == ENOENT ? NOT_FOUND : NOT_EXECUTABLE;
}

/* Starts the recorder of process PID: a command of its own, which goes on if we are killed, and ends with the
 * program. 0 when it cannot be started, which is told. */
static pid_t start_recorder(struct cli *cli, const struct run_values *values, pid_t pid)
{
	_cleanup_free_ char *number = cli_printf("%d", (int)pid);
	const char *argv[20] = { "kage", "record", "--quiet", "--every", values->every };
	size_t n = 5;
	pid_t recorder;

	if (cli->store_path) {
		argv[n++] = "--store";
		argv[n++] = cli->store_path;
	}
	if (values->name) {
		argv[n++] = "--name";
		argv[n++] = values->name;
	}
	if (values->keep) {
		argv[n++] = "--keep";
		argv[n++] = values->keep;
	}
	if (values->git) {
		argv[n++] = "--git";
		argv[n++] = values->git;
	}
	if (values->recipient) {
		argv[n++] = "--recipient";
		argv[n++] = values->recipient;
	}
	argv[n++] = number;
	recorder = fork();
	if (recorder == 0) {
		execv("/proc/self/exe", (char **)argv);
		_exit(CLI_FAILED);
	}
	if (recorder < 0)
		cli_note(cli, "the program is not recorded: %s", strerror(errno));
	return recorder < 0 ? 0 : recorder;
}

/* RELAY is NULL for a program that takes the terminal we have. */
static int run_with(struct cli *cli, const struct run_values *values, struct cli_relay *relay,
		    char **argv)
{
	struct cli_foreground fg;
	pid_t pid, recorder = 0;
	int status;
	int num = cli_foreground_open(&fg);

	if (num)
		return cli_fail_own(cli, KAGE_SYS, num, "prepare to wait for the program");
	num = start(&fg, values, relay ? relay->path : NULL, argv, &pid);
	if (num) {
		cli_foreground_close(&fg);
		return fail_start(cli, argv[0], num);
	}
	fg.relay = relay;
	if (values->every)
		recorder = start_recorder(cli, values, pid);
	if (relay)
		cli_relay_begin(relay);
	status = cli_foreground_wait(&fg, &pid, 1);
	/* It sees the end of the program, and ends what it is about. */
	while (recorder && waitpid(recorder, NULL, 0) < 0 && errno == EINTR)
		;
	return status;
}

static int run(struct cli *cli, const void *data, int argc, char **argv)
{
	const struct run_values *values = data;
	struct cli_relay relay;
	uint64_t every_ns;
	int num, status;

	(void)argc;
	if (values->every && !cli_duration_parse(values->every, &every_ns))
		return cli_fail_usage(cli, "'%s' is no duration; write 200ms, 1s, 5min",
				      values->every);
	if (values->keep && !values->every)
		return cli_fail_usage(cli, "--keep goes with --every");
	if (values->git && !values->every)
		return cli_fail_usage(cli, "--git goes with --every");
	if (values->recipient && !values->every)
		return cli_fail_usage(cli, "--recipient goes with --every");
	if (values->recipient) {
		_cleanup_free_ char *public = NULL;
		struct kage_err *e = kage_key_recipient(values->recipient, &public);

		if (e)
			return cli_fail(cli, e);
	}
	if (!values->tty)
		return run_with(cli, values, NULL, argv);
	num = cli_relay_open(&relay);
	if (num)
		return cli_fail_own(cli, KAGE_SYS, num, "make a terminal");
	cli_relay_default_size(&relay);
	status = run_with(cli, values, &relay, argv);
	cli_relay_close(&relay);
	return status;
}

const struct cli_command cli_run = {
	.name = "run",
	.arguments = "[--] COMMAND [ARGUMENT…]",
	.summary = "start a program",
	.details =
		"  Starts COMMAND and stays in the foreground until it ends: signals, job control and the\n"
		"  exit status pass through. Images can be taken of any program, started this way or not.",
	.options = options,
	.min_args = 1,
	.max_args = -1,
	.first_ends_options = true,
	.run = run,
};
