/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/child.h"

#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

bool cli_child_mentions(char **argv, const char *word)
{
	_cleanup_free_ char *braced = cli_printf("{%s}", word);

	for (; *argv; argv++)
		if (strstr(*argv, braced))
			return true;
	return false;
}

char *cli_child_expand(const char *text, const struct cli_variable *variables, size_t n)
{
	char *result = cli_printf("%s", text);

	for (size_t i = 0; i < n; i++) {
		_cleanup_free_ char *braced = NULL;
		char *at = result;

		if (!variables[i].word || !variables[i].value)
			continue;
		braced = cli_printf("{%s}", variables[i].word);
		while ((at = strstr(at, braced))) {
			size_t before = (size_t)(at - result);
			char *next = cli_printf("%.*s%s%s", (int)before, result, variables[i].value,
						at + strlen(braced));

			free(result);
			result = next;
			at = result + before + strlen(variables[i].value);
		}
	}
	return result;
}

/* In the child: never returns. */
static _Noreturn void become(const struct cli *cli, char **argv,
			     const struct cli_variable *variables, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (variables[i].value)
			setenv(variables[i].name, variables[i].value, 1);
		else
			unsetenv(variables[i].name);
	}
	for (char **arg = argv; *arg; arg++)
		*arg = cli_child_expand(*arg, variables, n);
	if (cli->json)
		dup2(STDERR_FILENO, STDOUT_FILENO);
	execvp(argv[0], argv);
	fprintf(stderr, "kage %s: cannot start %s: %s\n", cli->command->name, argv[0],
		strerror(errno));
	fflush(stderr);
	_exit(errno == ENOENT ? CLI_CHILD_NOT_FOUND : CLI_CHILD_NOT_RUN);
}

int cli_child_run(const struct cli *cli, char **argv, const struct cli_variable *variables,
		  size_t n, int *ret_status)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0)
		become(cli, argv, variables, n);
	if (pid < 0)
		return errno;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	*ret_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	return 0;
}
