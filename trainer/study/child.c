#include "trainer/study/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shared/base/mem.h"

enum { LAST_BYTES = 4096 };

/* environ with the variable that names us. Caller frees. */
static char **environment(char *own, size_t bytes)
{
	size_t count = 0;

	while (environ[count] != NULL)
		count++;
	char **all = mem_array(count + 2, sizeof(*all));
	if (all == NULL)
		return NULL;
	snprintf(own, bytes, CHILD_PARENT_VARIABLE "=%ld", (long)getpid());
	memcpy(all, environ, count * sizeof(*all));
	all[count] = own;
	return all;
}

static int set_up(posix_spawn_file_actions_t *files, posix_spawnattr_t *attr, const char *log)
{
	sigset_t none, usual;
	int error;

	sigemptyset(&none);
	sigemptyset(&usual);
	sigaddset(&usual, SIGINT);
	sigaddset(&usual, SIGTERM);
	sigaddset(&usual, SIGPIPE);
	if ((error = posix_spawn_file_actions_addopen(files, STDIN_FILENO, "/dev/null", O_RDONLY, 0)) != 0 ||
	    (error = posix_spawn_file_actions_addopen(files, STDOUT_FILENO, log, O_WRONLY | O_CREAT | O_APPEND, 0666)) != 0 ||
	    (error = posix_spawn_file_actions_adddup2(files, STDOUT_FILENO, STDERR_FILENO)) != 0 ||
	    (error = posix_spawnattr_setsigmask(attr, &none)) != 0 || (error = posix_spawnattr_setsigdefault(attr, &usual)) != 0 ||
	    (error = posix_spawnattr_setpgroup(attr, 0)) != 0)
		return error;
	return posix_spawnattr_setflags(attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
}

int child_start(pid_t *out, char *const argv[], const char *log, struct err *err)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	char own[64];
	char **env = environment(own, sizeof(own));
	int error;

	*out = -1;
	if (env == NULL)
		return err_nomem(err, sizeof(*env));
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attr);
	/* Not the name that we were started by: that file may have been replaced since. */
	if ((error = set_up(&files, &attr, log)) == 0)
		error = posix_spawn(out, "/proc/self/exe", &files, &attr, argv, env);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	mem_free(env);
	return error == 0 ? 0 : err_errno(err, error, "cannot start a run (output to %s)", log);
}

bool child_ended(pid_t pid, int *status)
{
	return waitpid(pid, status, WNOHANG) == pid;
}

void child_wait(pid_t pid, int *status)
{
	while (waitpid(pid, status, 0) < 0 && errno == EINTR)
		;
}

void child_stop(pid_t pid)
{
	kill(pid, SIGTERM);
}

void child_last_words(const char *log, char *out, size_t bytes)
{
	char text[LAST_BYTES + 1];
	int fd = open(log, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	ssize_t got = 0;

	snprintf(out, bytes, "it said nothing");
	if (fd < 0)
		return;
	got = pread(fd, text, LAST_BYTES, size > LAST_BYTES ? size - LAST_BYTES : 0);
	close(fd);
	if (got <= 0)
		return;
	text[got] = '\0';
	while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == ' '))
		text[--got] = '\0';
	if (got > 0) {
		const char *line = strrchr(text, '\n');

		snprintf(out, bytes, "%s", line == NULL ? text : line + 1);
	}
}
