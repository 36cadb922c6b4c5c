/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/interrupt.h"

#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* A signal handler has no other way to say something: the one variable of the program that is not
 * on the stack of main. */
static volatile sig_atomic_t came;

static void handler(int signal_number)
{
	came = signal_number;
}

const volatile sig_atomic_t *cli_interrupt_catch(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };

	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
		struct sigaction action = { .sa_handler = handler }, before;

		/* nohup, and the shell for background jobs, ignore signals for their children. */
		if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
			sigaction(signals[i], &action, NULL);
	}
	return &came;
}

int cli_interrupt_signal(void)
{
	return came;
}

_Noreturn void cli_interrupt_die(int signal_number)
{
	struct sigaction action = { .sa_handler = SIG_DFL };
	sigset_t set;

	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0 });
	sigaction(signal_number, &action, NULL);
	sigemptyset(&set);
	sigaddset(&set, signal_number);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(signal_number);
	_exit(128 + signal_number);
}
